"""Garbage that is left of what has ended: judges, prepared data, jobs, logs, and what was never finished."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from components import cluster
from components.ops.garbage import Garbage, View, changed_of
from components.ops.prepared import unnamed_revisions
from components.ops.running import held
from components.serving import server
from components.serving.jobs import CANCEL, Jobs

DAY = 86_400.0
DRAFT = re.compile(r"\..+-(old-)?[0-9a-f]{8}|\.(backup|draft|writable)-.+|\.\d+(-[0-9a-f]+)?-\d+")
"""The names of what is half written: those of `files.draft`, and of what waits for its place elsewhere."""
REVISION = re.compile(r"-([0-9a-f]{16,64})$")
"""How the name of a judge ends: with the revision of the data on which it was fitted."""

GONE = {"failed": "it failed", "cancelled": "it was cancelled"}
"""How a job ended whose shards nobody needs."""


def judges(view: View) -> Iterator[Garbage]:
    """Fitted features of data that are not prepared any more."""
    there = {_revision(path) for path in view.project.prepared.glob("*/dataset.json")}
    cache = view.settings.shared / "cache"
    for path in sorted([*cache.glob("*.safetensors"), *cache.glob("val/*.safetensors")]):
        revision = REVISION.search(path.stem)
        if revision and revision[1] not in there:
            why = f"the data of revision {revision[1][:10]} are gone"
            name = path.relative_to(cache).as_posix()
            yield Garbage("judges", name, (path,), changed_of(path), why, (path.with_suffix(".lock"),))


def _revision(manifest: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(manifest.read_text(encoding="utf-8"))["revision"])
    return ""


def prepared(view: View) -> Iterator[Garbage]:
    """Prepared data in DVC's cache that neither dvc.lock nor a version names."""
    named = {version.revision for version in view.versions}
    for one in unnamed_revisions(view.project, named, view.keep):
        why = f"neither dvc.lock nor a version names the revision {one.revision[:10]}"
        lock = view.settings.home / ".dvc-lock"
        yield Garbage("prepared", f"{one.dataset}@{one.revision[:10]}", one.paths, one.changed, why, (lock,))


def jobs(view: View) -> Iterator[Garbage]:
    """Bulk jobs that failed or were cancelled, and what a command that was killed has left of others."""
    own = Jobs(view.settings.shared / "jobs")
    lock = own.folder / ".lock"
    for folder in sorted(own.folder.glob(".job-*-gone")):
        yield Garbage("jobs", folder.name, (folder,), changed_of(folder), "it was pruned", (lock,))
    for name in own.ids():
        _, state = own.get(name)
        folder = own.folder / name
        if state.status in GONE:
            changed = max(state.finished or 0.0, changed_of(folder / CANCEL, folder / "state.json"))
            yield Garbage("jobs", name, (folder,), changed, GONE[state.status], (lock,))


def logs(view: View) -> Iterator[Garbage]:
    """What servers wrote that do not run any more."""
    home = view.settings.home
    mine = [home / "prefect" / "server.log"]
    mine += [] if server.find(view.settings) else [home / "serve" / "server.log"]
    mine += [] if held(home / "schedule" / "lock") else [*(home / "schedule").glob("*.log")]
    for path in mine:
        if path.is_file() and path.stat().st_size:
            yield Garbage(
                "logs", path.relative_to(home).as_posix(), (path,), changed_of(path), "its server has ended"
            )


def ray(view: View) -> Iterator[Garbage]:
    """What Ray has left of trainings, searches and clusters that were killed."""
    shared = view.settings.shared
    for folder in sorted((shared / "ray").glob("*/")):
        own = folder.name[:-9]  # without the hyphen and the eight digits that make it a new name
        locks = [
            path
            for path in (shared / "runs" / own / "lock", shared / "sweeps" / own / "lock")
            if path.is_file()
        ]
        if not any(map(held, locks)):
            why = "its training or search has ended"
            yield Garbage("ray", f"ray/{folder.name}", (folder,), changed_of(folder), why, tuple(locks))
    for session in cluster.sessions_left(view.settings):
        yield Garbage("ray", str(session), (session,), changed_of(session), "its cluster has ended")
    for folder in _proxies():
        yield Garbage("ray", str(folder), (folder,), changed_of(folder), "its proxy has ended")


def _proxies() -> Iterator[Path]:
    """The folders of HAProxy of servers that were killed: ours, and named by no process."""
    for folder in sorted(Path(tempfile.gettempdir()).glob("genloom-*/")):
        with contextlib.suppress(OSError):
            mine = folder.stat().st_uid == os.getuid() and (folder / "503.http").is_file()
            if mine and changed_of(folder) < _a_day_ago() and not _named(folder):
                yield folder


def _named(folder: Path) -> bool:
    """Whether a process has the folder in its command line."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                return True
    return False


def drafts(view: View) -> Iterator[Garbage]:
    """What was half written when a command was killed, at least a day ago."""
    for base in {view.settings.home, view.settings.shared}:
        for place, folders, names in os.walk(base):
            mine = [name for name in (*folders, *names) if DRAFT.fullmatch(name)]
            folders[:] = [name for name in folders if name not in mine]
            for name in sorted(mine):
                path = Path(place, name)
                if changed_of(path) < _a_day_ago():
                    where = path.relative_to(base).as_posix()
                    yield Garbage("drafts", where, (path,), changed_of(path), "it was never finished")


def _a_day_ago() -> float:
    return time.time() - DAY
