"""A backup becomes a project's state again, perhaps on another machine: checked first, put in place at one stroke."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from components import layout
from components.data.dataset import file_hash
from components.errors import FailedError, UserError
from components.labels import credentials
from components.ops import store
from components.ops.backup import SPARE, Progress, silent
from components.ops.move import move_jobs, move_run_log
from components.ops.running import refuse_running
from components.ops.snapshot import Entry, Snapshot
from components.promotion import ledger, revocation
from components.promotion.ledger import Line
from components.promotion.promote import verify as verify_ledger
from components.promotion.registry import Registry
from components.promotion.version import CHAMPION
from components.promotion.withdraw import withdraw
from components.serving.jobs import Jobs
from components.settings import Settings

log = logging.getLogger(__name__)
IDLE = ("layout", "ray-token", "downloads", "last-backup.json")
"""What a home may hold in which nothing was done that a restore would take away."""
FOLDERS = {"home": "GENLOOM_HOME", "shared": "GENLOOM_STORAGE"}


@dataclass(frozen=True)
class Restored:
    """What came of a restore: `set_aside` is where the old state lies now, `stayed` are files of the project.

    `ledgers` are the lines of each product's ledger, which was checked against the registry. `withdrawn` are versions
    that were withdrawn in the old state and not yet in the backup, and are so again; `purged` are those of them
    whose weights had been deleted. `key` is the key that signs labels if it is that of the old state, as the backup
    was made without it.
    """

    snapshot: Snapshot
    home: Path
    set_aside: tuple[Path, ...]
    stayed: tuple[str, ...]
    ledgers: Mapping[str, int]
    withdrawn: tuple[str, ...] = ()
    purged: tuple[str, ...] = ()
    key: Path | None = None


def check(source: Path, at: str | None = None, progress: Progress | None = None) -> Snapshot:
    """Read the manifest and every content of a backup; raises `UserError` that names what is missing or altered."""
    snapshot = store.read_snapshot(source, at)
    told, done = progress or silent, 0
    wanted, total = snapshot.objects, sum(snapshot.objects.values())
    left = set(wanted)
    for digest, stream in store.contents(source, wanted):
        if _hash(stream) != digest:
            raise _harmed(source, snapshot, digest, "was altered")
        left.remove(digest)
        done += wanted[digest]
        told(done, total)
    for digest in sorted(left):
        raise _harmed(source, snapshot, digest, "is missing")
    return snapshot


def restore(
    root: Path,
    settings: Settings,
    source: Path,
    at: str | None = None,
    over: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Make the state of a backup that of the project at `root`; until it is written whole, everything stays as it was.

    What is there already is refused, unless `over`: then it is set aside, whole. Files of the project that differ
    stay, unless `over`. What was withdrawn in the old state stays so: an old backup is no way back. The key that signs
    labels stays as well where the backup was made without it, or nobody could tell what it signed. A process that has
    had the run log open must not use it afterwards: it would go on with the old one. Raises `UserError` while anything
    runs, and for a backup that is not whole.
    """
    refuse_running(settings, "restoring")
    snapshot = check(source, at, progress)
    before = _revoked(settings)
    _check_layout(snapshot)
    folders = {"home": settings.home, "shared": settings.shared}
    _check_empty(folders, over)
    _check_room(settings, snapshot)
    stamp = _stamp(folders)
    with _drafts(folders) as drafts:
        files = _places(snapshot, drafts)
        _write(source, snapshot, files)
        _move(snapshot, drafts, settings)
        key = _keep_key(snapshot, settings, drafts["shared"])
        refuse_running(settings, "restoring")
        aside = [
            old for name, draft in _once(drafts) if (old := _swap(draft, folders[name], stamp)) is not None
        ]
    stayed = _project_files(snapshot, settings.home / PENDING, root, over, stamp)
    lines = _ledgers(settings, snapshot)
    again = _withdraw_again(settings, before, lines)
    purged = tuple(name for name, (_, gone) in before.items() if gone and name in again)
    lines = {product: verify_ledger(settings, product) for product in lines} if again else lines
    return Restored(snapshot, settings.home, tuple(aside), stayed, lines, again, purged, key)


def _stamp(folders: Mapping[str, Path]) -> str:
    """The time, and a number where something was set aside in this second already."""
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    stamps = itertools.chain([now], (f"{now}-{number}" for number in itertools.count(2)))
    return next(
        stamp for stamp in stamps if not any(_aside(folder, stamp).exists() for folder in folders.values())
    )


def _aside(folder: Path, stamp: str) -> Path:
    """Where what was in a folder is set aside."""
    return folder.with_name(f"{folder.name}.before-{stamp}")


PENDING = ".project-files"
"""Where the project's files wait in the home until it is in its place."""


def _hash(stream: IO[bytes]) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # it only reads


def _harmed(source: Path, snapshot: Snapshot, digest: str, fault: str) -> UserError:
    name = next(entry.path for entry in snapshot.files if entry.sha256 == digest)
    return UserError(
        f"The content of {name} in the backup {source} ({snapshot.name}) {fault}; nothing was restored; take another "
        "backup, such as an earlier one with --at."
    )


def _check_layout(snapshot: Snapshot) -> None:
    if snapshot.layout > layout.LAYOUT:
        raise UserError(
            f"The backup {snapshot.name} is of a newer Genloom ({snapshot.genloom}, layout {snapshot.layout}) and this "
            f"one knows the layout {layout.LAYOUT}; install that one."
        )


def _check_empty(folders: Mapping[str, Path], over: bool) -> None:
    """Raise `UserError` if there is state already, or a folder cannot be replaced."""
    for name, folder in folders.items():
        if folder.is_file():
            raise UserError(f"{folder} ({FOLDERS[name]}) is a file; name a folder.")
        if os.path.ismount(folder):
            raise UserError(
                f"{folder} ({FOLDERS[name]}) is where a disk is mounted and cannot be replaced at one stroke; set "
                f"{FOLDERS[name]} to a folder on it."
            )
        held = _held(folder)
        if held and not over:
            raise UserError(
                f"{folder} ({FOLDERS[name]}) is not empty, it holds {', '.join(held[:3])}; give --over to set it aside "
                f"and restore, or set {FOLDERS[name]} to a new folder."
            )


def _held(folder: Path) -> list[str]:
    """What a home or a shared folder holds of its own."""
    if not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(
        name for name in names if not (name in IDLE or name.startswith(".") or name.endswith(".lock"))
    )


def _check_room(settings: Settings, snapshot: Snapshot) -> None:
    place = next(folder for folder in settings.home.parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free < snapshot.size + SPARE:
        raise UserError(
            f"The backup has {snapshot.size / 2**20:,.0f} MiB and {place} has {free / 2**20:,.0f} MiB left; free some, "
            "or set GENLOOM_HOME to another disk."
        )


@contextlib.contextmanager
def _drafts(folders: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """A new folder beside each of `folders`, one for those that are the same; what is left of them is removed."""
    beside = {
        folder: folder.with_name(f".{folder.name}-{secrets.token_hex(4)}") for folder in folders.values()
    }
    try:
        for draft in beside.values():
            draft.mkdir(parents=True)
        yield {name: beside[folder] for name, folder in folders.items()}
    finally:
        for draft in beside.values():
            shutil.rmtree(draft, ignore_errors=True)


def _once(drafts: Mapping[str, Path]) -> list[tuple[str, Path]]:
    """The drafts by name, the shared folder first, one that is both only as the home."""
    return [
        (name, drafts[name])
        for name in ("shared", "home")
        if name == "home" or drafts["home"] != drafts[name]
    ]


def _places(snapshot: Snapshot, drafts: Mapping[str, Path]) -> dict[str, list[tuple[Path, Entry]]]:
    """Where each content goes, in the drafts."""
    places = {**drafts, "project": drafts["home"] / PENDING, "tls": drafts["home"] / "tls"}
    found: dict[str, list[tuple[Path, Entry]]] = {}
    for entry in snapshot.files:
        place, _, below = entry.path.partition("/")
        found.setdefault(entry.sha256, []).append((places[place] / below, entry))
    return found


def _write(source: Path, snapshot: Snapshot, files: Mapping[str, Sequence[tuple[Path, Entry]]]) -> None:
    """Write every file, with its mode and the time at which it was changed; hashes are looked at once more."""
    written = 0
    for digest, stream in store.contents(source, files):
        (first, _), *more = files[digest]
        first.parent.mkdir(parents=True, exist_ok=True)
        with first.open("wb") as new:
            found, _ = store.copied(stream, new)
        if found != digest:
            raise _harmed(source, snapshot, digest, "was altered")
        for path, _ in more:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(first, path)
        for path, entry in files[digest]:
            path.chmod(entry.mode)
            os.utime(path, ns=(entry.changed[0], entry.changed[0]))
        written += len(files[digest])
    if written != len(snapshot.files):
        raise FailedError(
            f"The backup {source} was changed while it was read; nothing was restored, try again."
        )


def _move(snapshot: Snapshot, drafts: Mapping[str, Path], settings: Settings) -> None:
    """Correct the absolute paths for the place where the drafts will be."""
    before, database = Path(snapshot.home), drafts["home"] / "mlflow.db"
    if database.is_file():
        move_run_log(database, before, settings.home)
    move_jobs(drafts["shared"] / "jobs", before, settings.home)


def _keep_key(snapshot: Snapshot, settings: Settings, draft: Path) -> Path | None:
    """Copy the key that signs labels into the draft, with its certificates, unless the backup says which there was."""
    folder = credentials.folder_of(settings)
    if "labels" in snapshot.parts or not (folder / credentials.KEY).is_file():
        return None
    shutil.copytree(
        folder, draft / folder.relative_to(settings.shared), ignore=shutil.ignore_patterns(".*", "*.lock")
    )
    return folder / credentials.KEY


def _swap(draft: Path, folder: Path, stamp: str) -> Path | None:
    """Put a draft in its place, with what only this machine has; where the old folder is now, if it held anything."""
    aside = _aside(folder, stamp)
    old = folder.is_dir()
    if old:
        folder.rename(aside)
    try:
        draft.rename(folder)
    except OSError:
        if old:
            aside.rename(folder)
        raise
    if not old:
        return None
    for name in IDLE:
        if (aside / name).exists() and not (folder / name).exists():
            (aside / name).rename(folder / name)
    if _held(aside):
        return aside
    shutil.rmtree(aside, ignore_errors=True)
    return None


def _project_files(snapshot: Snapshot, pending: Path, root: Path, over: bool, stamp: str) -> tuple[str, ...]:
    """Put the project's files in their places; those that stay because others are there."""
    stayed = []
    for entry in snapshot.files:
        place, _, below = entry.path.partition("/")
        if place != "project":
            continue
        new, old = pending / below, root / below
        if old.is_file() and file_hash(old) == entry.sha256:
            continue
        if old.is_file() and not over:
            stayed.append(below)
            continue
        old.parent.mkdir(parents=True, exist_ok=True)
        if old.is_file():
            aside = _aside(pending.parent, stamp) / "project" / below
            aside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old, aside)
        shutil.copy2(new, old)
    shutil.rmtree(pending, ignore_errors=True)
    return tuple(stayed)


def _revoked(settings: Settings) -> dict[str, tuple[Line, bool]]:
    """What is withdrawn in the present state, by the ledgers alone: the line of each version, and whether it is purged.

    Of a ledger that is broken, which is why somebody may restore, nothing is known.
    """
    found: dict[str, tuple[Line, bool]] = {}
    for product in ledger.products(settings):
        try:
            standing = revocation.standing_of(settings, product)
        except FailedError as error:
            log.warning("What is withdrawn for %s is not known: %s", product, error)
            continue
        for number, line in standing.revoked.items():
            found[f"{product}/{number}"] = line, number in standing.purged
    return found


def _withdraw_again(
    settings: Settings, before: Mapping[str, tuple[Line, bool]], lines: Mapping[str, int]
) -> tuple[str, ...]:
    """Withdraw what was withdrawn `before` and is the same artifact now, with the reason of then; what was done."""
    again = []
    for name, (line, _) in before.items():
        if (
            line.product not in lines
            or line.version in revocation.standing_of(settings, line.product).revoked
        ):
            continue
        with contextlib.suppress(UserError):  # a version that was registered after the backup
            version = Registry(settings).version(line.product, line.version)
            if version.digest == line.digest:
                withdraw(settings, version, line.why, line.data)
                again.append(name)
    return tuple(again)


def _ledgers(settings: Settings, snapshot: Snapshot) -> dict[str, int]:
    """Check each ledger and that the registry agrees with it, and fetch what is champion or a job generates by.

    Raises `FailedError` or `UserError` that names what does not fit.
    """
    if settings.tracking_uri:
        return dict(snapshot.products)
    lines = {product: verify_ledger(settings, product) for product in snapshot.products}
    registry = Registry(settings)
    for product in lines:
        if ledger.standing(ledger.read(ledger.path_of(settings, product))).champions:
            registry.fetch(registry.version(product, CHAMPION))
    for job in Jobs(settings.shared / "jobs").open():
        with contextlib.suppress(
            UserError
        ):  # of a version that was withdrawn since, which the job itself will say
            registry.fetch(registry.version(job.product, job.version))
    return lines
