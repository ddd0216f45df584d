"""Removes what nobody needs any more, beside running trainings and servers."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from components.errors import UserError, unknown
from components.ops import leftovers, weights
from components.ops.garbage import Finder, Garbage, View, changed_of
from components.ops.running import LOCK
from components.project import Project
from components.promotion import ledger
from components.settings import writable_home

LAG = 1.0
"""Seconds: a file system writes down coarser times than the clock has."""
Told = Callable[[int, int], None]
"""Told how many things are done, and of how many."""

KINDS: Mapping[str, Finder] = {
    "checkpoints": weights.checkpoints,
    "artifacts": weights.artifacts,
    "trials": weights.trials,
    "uploads": weights.uploads,
    "copies": weights.copies,
    "judges": leftovers.judges,
    "prepared": leftovers.prepared,
    "jobs": leftovers.jobs,
    "logs": leftovers.logs,
    "ray": leftovers.ray,
    "drafts": leftovers.drafts,
}
"""The kinds of garbage, each with what finds it."""


@dataclass(frozen=True)
class Collected:
    """What was removed, and what stayed because somebody works with it after all."""

    removed: tuple[Garbage, ...]
    stayed: tuple[Garbage, ...]

    @property
    def freed(self) -> int:
        """The bytes that were freed."""
        return sum(one.size for one in self.removed)


def find(project: Project, age: timedelta, keep: int, kinds: Collection[str] = ()) -> list[Garbage]:
    """What can go: not changed for `age`, and of a run not among its newest `keep` trainings, which stay whole.

    Raises `UserError` for a kind that there is none of, and if the registry cannot be asked what it needs.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of garbage", kind, KINDS)
    if keep < 1:
        raise UserError(f"--keep is {keep}; of each run at least its last training stays.")
    writable_home(project.settings)
    view = View(project, keep, time.time() - age.total_seconds())
    chosen = [finder for kind, finder in KINDS.items() if not kinds or kind in kinds]
    found = [one for finder in chosen for one in finder(view) if view.old(one.changed)]
    for one in found:
        _ = one.size  # while it is there
    return found


def collect(project: Project, found: Sequence[Garbage], told: Told | None = None) -> Collected:
    """Remove what was found, unless a process holds its lock or has changed it since."""
    removed: list[Garbage] = []
    stayed: list[Garbage] = []
    with ledger.locked(project.settings, LOCK):  # a backup reads what would go
        for done, one in enumerate(found, start=1):
            (removed if _remove(one) else stayed).append(one)
            (told or _silent)(done, len(found))
    return Collected(tuple(removed), tuple(stayed))


def _silent(done: int, total: int) -> None:
    pass


def _remove(one: Garbage) -> bool:
    """Take it out of everybody's sight at one stroke while its locks are held, and then away; False if it stays."""
    hidden = []
    with contextlib.ExitStack() as locks:
        try:
            for lock in one.locks:
                lock.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(FileLock(lock, blocking=False))
        except Timeout:
            return False
        if _changed(one) or not one.still():
            return False
        for path in one.paths:
            beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
            with contextlib.suppress(FileNotFoundError):
                path.rename(beside)
                hidden.append(beside)
    for path in hidden:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return True


def _changed(one: Garbage) -> bool:
    """Whether anybody has changed its files since it was found; a file's time may lag behind the clock a little."""
    return changed_of(*_files(one.paths)) > one.found - LAG


def _files(paths: Sequence[Path]) -> list[Path]:
    return [file for path in paths for file in (path, *(path.rglob("*") if path.is_dir() else ()))]
