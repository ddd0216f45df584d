"""What a project keeps and nobody needs any more: found here, kind by kind; components/ops/gc.py removes it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import psutil

from components import cluster
from components.ops.prepared import unnamed_revisions
from components.ops.running import held
from components.ops.sources import version_folders
from components.project import Project
from components.promotion import ledger
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.serving import server
from components.serving.applications import remembered
from components.serving.jobs import CANCEL, Jobs
from components.settings import Settings
from components.train.runs import RunRecord, read_runs
from components.tuning.records import Sweep, read_sweep

DAY = 86_400.0
DRAFT = re.compile(r"\..+-(old-)?[0-9a-f]{8}|\.(backup|draft|writable)-.+|\.\d+(-[0-9a-f]+)?-\d+")
"""The names of what is half written: those of `files.draft`, and of what waits for its place elsewhere."""
REVISION = re.compile(r"-([0-9a-f]{16,64})$")
"""How the name of a judge ends: with the revision of the data on which it was fitted."""


def _always() -> bool:
    return True


@dataclass(frozen=True)
class Garbage:
    """Files that can go: `changed` is when anything in them last was, in seconds since the epoch.

    Whoever removes them holds `locks` and asks then whether they are `still` garbage.
    """

    kind: str
    name: str
    paths: tuple[Path, ...]
    changed: float
    why: str
    locks: tuple[Path, ...] = ()
    still: Callable[[], bool] = _always
    found: float = field(default_factory=time.time)

    @cached_property
    def size(self) -> int:
        """The bytes that are freed."""
        return sum(size_of(path) for path in self.paths)


@dataclass(frozen=True)
class View:
    """The project as it is now; of the trainings of a run the newest `keep` are needed, and all since `before`."""

    project: Project
    keep: int
    before: float

    @property
    def settings(self) -> Settings:
        """The project's settings."""
        return self.project.settings

    @cached_property
    def registry(self) -> Registry:
        """The project's registry."""
        return Registry(self.settings)

    @cached_property
    def versions(self) -> list[Version]:
        """All versions of all products."""
        return [one for product in self.registry.products() for one in self.registry.versions(product)]

    @cached_property
    def runs(self) -> list[RunRecord]:
        """The trainings that have ended and are not among the newest of their run."""
        count: dict[str, int] = {}
        found = []
        for record in read_runs(self.settings):  # the newest first
            count[record.run] = count.get(record.run, 0) + 1
            if count[record.run] > self.keep and not self.runs_now(record):
                found.append(record)
        return found

    def runs_now(self, record: RunRecord) -> bool:
        """Whether a process works in the training's folder."""
        return held(record.folder / "lock")

    def old(self, changed: float) -> bool:
        """Whether it is long enough ago."""
        return changed < self.before


Finder = Callable[[View], Iterator[Garbage]]


def changed_of(*paths: Path) -> float:
    """When the newest of those files was changed that are there; 0 if none is."""
    times = [0.0]
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.lstat().st_mtime)
    return max(times)


def size_of(path: Path) -> int:
    """The bytes of a file, or of all below a folder; what vanishes meanwhile counts nothing."""
    if path.is_dir() and not path.is_symlink():
        return sum(size_of(Path(one)) for one in os.scandir(path))
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def last_use(record: RunRecord) -> float:
    """When a training was last worked on, or measured."""
    names = ("run.json", "progress.jsonl", "outcome.json", "evaluation/report.json")
    return changed_of(*(record.folder / name for name in names))


def checkpoints(view: View) -> Iterator[Garbage]:
    """Resume state of trainings that have ended."""
    for record in view.runs:
        folder = record.folder / "checkpoints"
        if folder.is_dir():
            state = "interrupted" if record.state == "running" else record.state
            why = f"its training is {state}"
            yield Garbage(
                "checkpoints", record.id, (folder,), last_use(record), why, (record.folder / "lock",)
            )


def artifacts(view: View) -> Iterator[Garbage]:
    """Models of trainings that no version came of."""
    named = {version.run_id for version in view.versions}
    for record in view.runs:
        if record.artifact.is_dir() and record.id not in named:
            registering = view.settings.shared / "locks" / f"{record.product}-register.lock"
            yield Garbage(
                "artifacts",
                record.id,
                (record.artifact,),
                last_use(record),
                "no version came of it",
                (record.folder / "lock", registering),
                lambda record=record: not _registered(view, record),  # type: ignore[misc]
            )


def _registered(view: View, record: RunRecord) -> bool:
    """Whether a version has come of the training meanwhile."""
    if record.product not in view.registry.products():
        return False
    return any(version.run_id == record.id for version in view.registry.versions(record.product))


def trials(view: View) -> Iterator[Garbage]:
    """Weights of the trials of searches, except for the best."""
    for folder in sorted((view.settings.shared / "sweeps").glob("*/")):
        sweep, lock = read_sweep(folder), folder / "lock"
        if sweep is None or held(lock):
            continue
        best = _best(sweep)
        for trial in sorted((folder / "trials").glob("*/")):
            weights = tuple(path for path in (trial / "artifact", trial / "checkpoints") if path.is_dir())
            if weights and trial.name != best:
                changed = changed_of(folder / "sweep.json", trial / "rungs.json")
                name = f"{folder.name}/{trial.name}"
                yield Garbage(
                    "trials", name, weights, changed, "another trial of the search is better", (lock,)
                )


def _best(sweep: Sweep) -> str:
    """The name of the folder of the best trial."""
    from components.tuning.trial import folder_of

    return "" if sweep.best is None else folder_of(sweep.best.settings)


def uploads(view: View) -> Iterator[Garbage]:
    """What an interrupted registration has left among the registry's files."""
    database, folder = view.settings.home / "mlflow.db", view.settings.home / "mlartifacts"
    if view.settings.tracking_uri or not database.is_file():
        return
    named = version_folders(database)
    for path in sorted(folder.glob("*/models/*/")):
        name = path.relative_to(folder).as_posix()
        if name not in named:
            yield Garbage(
                "uploads",
                name,
                (path,),
                changed_of(path, path / "artifacts"),
                "no version has these files",
                (view.settings.shared / "locks" / f"{name.partition('/')[0]}-register.lock",),
                lambda name=name: name not in version_folders(database),  # type: ignore[misc]
            )


def copies(view: View) -> Iterator[Garbage]:
    """Local copies of versions that are neither served nor about to be; the registry has the originals."""
    needed = set(_needed(view))
    for version in view.versions:
        if version.name in needed:
            continue
        home = view.settings.home
        for folder in (
            home / "models" / version.product / str(version.number),
            *(home / "reports" / version.product).glob(f"{version.number}-*/"),
        ):
            if folder.is_dir():
                lock = folder.with_name(f".{folder.name}.lock")
                name = folder.relative_to(home).as_posix()
                yield Garbage("copies", name, (folder,), changed_of(folder), "the registry has it", (lock,))


def _needed(view: View) -> Iterator[str]:
    """The names of the versions that somebody works with: aliases, trials, servers, jobs, trainings, the newest."""
    newest: dict[str, int] = {}
    for version in reversed(view.versions):
        newest[version.product] = newest.get(version.product, 0) + 1
        if version.aliases or newest[version.product] <= view.keep:
            yield version.name
    for product in ledger.products(view.settings):
        standing = ledger.standing(ledger.read(ledger.path_of(view.settings, product)))
        if standing.trial is not None:
            yield f"{product}/{standing.trial.version}"
        yield from (f"{product}/{number}" for number, _ in standing.champions[-2:])  # what a rollback goes to
    for application in remembered(view.settings):
        yield from (f"{served.product}/{served.version}" for served in application.served)
    yield from (f"{job.product}/{job.version}" for job in Jobs(view.settings.shared / "jobs").open())
    for record in read_runs(view.settings):
        if record.state == "running" and record.parameters.get("init"):
            yield str(record.parameters["init"])


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
        if state.status in ("failed", "cancelled"):
            changed = max(state.finished or 0.0, changed_of(folder / CANCEL, folder / "state.json"))
            yield Garbage("jobs", name, (folder,), changed, f"it was {state.status}", (lock,))


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


KINDS: Mapping[str, Finder] = {
    "checkpoints": checkpoints,
    "artifacts": artifacts,
    "trials": trials,
    "uploads": uploads,
    "copies": copies,
    "judges": judges,
    "prepared": prepared,
    "jobs": jobs,
    "logs": logs,
    "ray": ray,
    "drafts": drafts,
}
"""The kinds of garbage, each with what finds it."""
