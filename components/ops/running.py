"""What of a project runs now: found by the locks that each kind of work holds, and by the records of servers."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from components import cluster
from components.errors import UserError
from components.serving import server
from components.settings import Settings

LOCK = ".ops"
"""The lock that backup, garbage collection and migration hold; no product has a dot in its name."""


def held(lock: Path) -> bool:
    """Whether a process holds the lock at this path; one that is not there nobody holds."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, blocking=False):
            return False
    except Timeout:
        return True


def running(settings: Settings) -> list[str]:
    """What runs, each in words with how to end it."""
    found = []
    if (one := server.find(settings)) is not None:
        found.append(f"the server at {one.url} (genloom serve --stop)")
    elif (ray := cluster.find(settings)) is not None:
        found.append(f"a Ray (process {ray.pid})")
    if held(settings.home / "schedule" / "lock"):
        found.append("the schedule (genloom schedule stop)")
    found += [f"the training {name} (genloom runs stop {name})" for name in _locked(settings.runs)]
    found += [f"the search {name} (end it with Ctrl-C)" for name in _locked(settings.shared / "sweeps")]
    if held(settings.shared / "jobs" / ".clerk"):
        found.append("jobs (genloom serve --stop)")
    return found


def refuse_running(settings: Settings, what: str) -> None:
    """Raise `UserError` if anything runs, beside which `what` must not be done."""
    if found := running(settings):
        raise UserError(
            f"{' and '.join(found)} still runs; end it first, as {what} changes what it works with."
        )


def _locked(folder: Path) -> list[str]:
    """The names of the folders in `folder` in which a process works."""
    return sorted(path.parent.name for path in folder.glob("*/lock") if held(path))
