"""A consistent copy of a project's state, made while training and serving go on."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from components.errors import FailedError, UserError, unknown
from components.layout import LAYOUT, read_layout
from components.ops import store
from components.ops.databases import copy_database
from components.ops.last import remember
from components.ops.running import LOCK
from components.ops.snapshot import PARTS, Entry, Snapshot
from components.ops.sources import (
    Source,
    database_sources,
    left_out,
    optional_sources,
    tree,
    unfinished,
    vital_sources,
)
from components.ops.store import Store
from components.project import Project
from components.promotion import ledger
from components.settings import Settings, writable_home

SPARE = 64 * 2**20
"""Bytes of the disk that a backup leaves free."""
TRIES = 5
"""How often a checkpoint is taken again that its training has replaced by the next one meanwhile."""

Progress = Callable[[int, int], None]
"""Told how many bytes are done, of how many."""


def silent(done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True)
class Size:
    """What a backup comes to: files and bytes, and the bytes that are not there from an earlier one."""

    files: int
    bytes: int
    new: int


@dataclass(frozen=True)
class Made:
    """A backup that was made; `copied` are the bytes that were read and written, `freed` those of older backups."""

    target: Path
    snapshot: Snapshot
    copied: int
    freed: int


@dataclass(frozen=True)
class Moment:
    """The databases and ledgers of one moment, by their paths in the backup, and the lines of each ledger."""

    files: dict[str, Path]
    lines: dict[str, int]


def parts_of(without: Collection[str], with_: Collection[str]) -> tuple[str, ...]:
    """The parts that are wanted; raises `UserError` for a name that is none."""
    for name in (*without, *with_):
        if name not in PARTS:
            raise unknown("part of a backup", name, PARTS)
    wanted = {name for name, part in PARTS.items() if part.usual} | set(with_)
    return tuple(name for name in PARTS if name in wanted - set(without))


def back_up(
    project: Project,
    target: Path,
    parts: Sequence[str],
    keep: int | None = None,
    said: Callable[[Size], None] | None = None,
    progress: Progress | None = None,
) -> Made:
    """Write a backup of `parts` to `target`, a folder of backups or a tar file, and keep the newest `keep`.

    What a folder has from an earlier backup is not copied again. `said` hears of the size before anything is copied.
    Promotions wait while the databases are copied, nothing else does. Raises `UserError` for a target that cannot
    be, or a disk that is too small, `FailedError` for a database that is damaged.
    """
    settings = project.settings
    check_target(settings, target)
    writable_home(settings)
    with ledger.locked(settings, LOCK), store.writing(target) as where, _beside(settings) as folder:
        moment = _moment(settings, parts, folder)
        database = moment.files.get("home/mlflow.db")
        sources = [Source(path, file, vital=True) for path, file in moment.files.items()]
        sources += [*vital_sources(project, database), *optional_sources(project, parts)]
        taking = _Taking(where, sources, progress or silent)
        size = taking.size(_resumable(settings) if "checkpoints" in parts else [])
        (said or (lambda _: None))(size)
        check_room(target, size)
        entries = taking.all()
        if "checkpoints" in parts:
            entries += taking.checkpoints(settings)
        snapshot = _snapshot(project, parts, entries, moment, _name(target))
        where.finish(snapshot)
        freed = store.thin(target, keep) if keep and not store.is_tar(target) else 0
    remember(settings, target, snapshot.name, snapshot.created)
    return Made(target, snapshot, taking.done, freed)


@contextlib.contextmanager
def _beside(settings: Settings) -> Iterator[Path]:
    """A folder for the copies of databases, on a disk that is as large as they are."""
    with tempfile.TemporaryDirectory(dir=settings.home, prefix=".backup-") as folder:
        yield Path(folder)


def check_target(settings: Settings, target: Path) -> None:
    """Raise `UserError` for a target inside of what is backed up, or one that cannot be written."""
    for name, folder in {"GENLOOM_HOME": settings.home, "GENLOOM_STORAGE": settings.shared}.items():
        if target.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{target} lies in {name}, with which it would be lost; name a place elsewhere.")
    store.check_target(target)


def check_room(target: Path, size: Size) -> None:
    """Raise `UserError` if the disk has not room for what is new."""
    there = next(folder for folder in (target, *target.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < size.new + SPARE:
        raise UserError(
            f"The backup needs {size.new / 2**20:,.0f} MiB and {target} has {free / 2**20:,.0f} MiB left; free some, "
            "leave parts out with --without, or name another disk."
        )


def _moment(settings: Settings, parts: Sequence[str], folder: Path) -> Moment:
    """Copy databases and ledgers into `folder` while no product can be promoted.

    So the registry has each version that a ledger names, and each ledger has the line that the registry saw last.
    """
    wanted = database_sources(settings, parts)
    flows = {path: file for path, file in wanted.items() if path != "home/mlflow.db"}
    copies = {path: _copied(file, folder / str(place)) for place, (path, file) in enumerate(flows.items())}
    while True:
        products = ledger.products(settings)
        with contextlib.ExitStack() as locks:
            for product in products:  # in one order, and others hold one at a time
                locks.enter_context(ledger.locked(settings, product))
            if "home/mlflow.db" in wanted:
                copies["home/mlflow.db"] = _copied(wanted["home/mlflow.db"], folder / "mlflow.db")
            if ledger.products(settings) != products:  # the first promotion of a product came between
                (folder / "mlflow.db").unlink(missing_ok=True)
                continue
            lines = {product: len(ledger.read(ledger.path_of(settings, product))) for product in products}
            for product in products:
                copy = folder / f"{product}.jsonl"
                shutil.copyfile(ledger.path_of(settings, product), copy)
                copies[f"shared/ledger/{product}.jsonl"] = copy
        return Moment(copies, lines)


def _copied(database: Path, copy: Path) -> Path:
    copy_database(database, copy)
    copy.chmod(database.stat().st_mode & 0o777)
    return copy


class _Taking:
    """The files of a backup on their way into a store; `done` are the bytes that were copied."""

    def __init__(self, where: Store, sources: Sequence[Source], progress: Progress) -> None:
        self.where, self.sources, self.progress = where, sources, progress
        last = where.last
        self.known = {entry.path: entry for entry in last.files} if last is not None else {}
        self.done, self.total = 0, 0

    def size(self, more: Sequence[Source]) -> Size:
        """What there is to do, `more` included."""
        sizes = [
            (source, found) for source in (*self.sources, *more) if (found := _size(source.file)) is not None
        ]
        self.total = sum(size for source, size in sizes if self._same(source) is None)
        return Size(len(sizes), sum(size for _, size in sizes), self.total)

    def all(self) -> list[Entry]:
        """Take in what is not there yet; of what is not vital, files that vanish meanwhile are left out."""
        entries = []
        for source in self.sources:
            try:
                entries.append(self.take(source))
            except FileNotFoundError as error:
                if source.vital:
                    raise FailedError(
                        f"{source.file} vanished while it was copied; take the backup again."
                    ) from error
        return entries

    def take(self, source: Source) -> Entry:
        """The file as an entry, its content in the store."""
        if (same := self._same(source)) is not None:
            return same
        found = source.file.stat()
        digest, size = self.where.add(source.file)
        self.done += size
        self.progress(self.done, max(self.total, self.done))
        changed = (found.st_mtime_ns, found.st_ctime_ns)
        return Entry(path=source.path, sha256=digest, size=size, mode=found.st_mode & 0o777, changed=changed)

    def _same(self, source: Source) -> Entry | None:
        """The entry of the last backup, if the file has not changed since and its content is still there."""
        known = self.known.get(source.path)
        if known is None:
            return None
        with contextlib.suppress(FileNotFoundError):
            found = source.file.stat()
            same = (found.st_mtime_ns, found.st_ctime_ns, found.st_size) == (*known.changed, known.size)
            return known if same and self.where.has(known.sha256, known.size) else None
        return None

    def checkpoints(self, settings: Settings) -> list[Entry]:
        """The last checkpoint of each training that is not done, whole."""
        return [entry for record in unfinished(settings) for entry in self._checkpoint(record.folder)]

    def _checkpoint(self, run: Path) -> list[Entry]:
        for _ in range(TRIES):
            try:
                return [self.take(source) for source in _last(run)]
            except FileNotFoundError:  # the training has replaced it by the next one
                continue
        raise FailedError(
            f"The checkpoints of {run.name} come too fast to be copied; leave them out, or stop it."
        )


def _resumable(settings: Settings) -> list[Source]:
    return [source for record in unfinished(settings) for source in _last(record.folder)]


def _last(run: Path) -> Iterator[Source]:
    from components.train import checkpoint  # which imports torch

    for last in checkpoint.checkpoints(run)[-1:]:
        yield from tree(last, f"shared/runs/{run.name}/checkpoints/{last.name}")


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _name(target: Path) -> str:
    """The time, and a number if there is a backup of that second."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    taken = sum(name.startswith(now) for name in store.names(target)) if target.is_dir() else 0
    return f"{now}-{taken + 1}" if taken else now


def _snapshot(
    project: Project, parts: Sequence[str], entries: Sequence[Entry], moment: Moment, name: str
) -> Snapshot:
    settings = project.settings
    return Snapshot(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        genloom=version("genloom"),
        layout=read_layout(settings.home) if settings.home.is_dir() else LAYOUT,
        root=str(project.root),
        home=str(settings.home),
        shared=str(settings.shared),
        parts=tuple(parts),
        without=tuple(left_out(settings, parts)),
        products=moment.lines,
        files=tuple(sorted(entries, key=lambda entry: entry.path)),
    )
