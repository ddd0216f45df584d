"""Where backups lie: a folder of contents by hash with a manifest for each backup, or the same as one tar file.

A backup is there once its manifest is, which is written last; contents without one mean nothing and harm nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, Protocol

from filelock import FileLock, Timeout

from components import files
from components.errors import UserError, unknown
from components.ops.snapshot import NAME, Snapshot, read_manifest, write_manifest

OBJECTS, SNAPSHOTS, MARK = "objects", "snapshots", "genloom-backup"
PIECE = 2**20
IN_MEMORY = 64 * 2**20
"""Bytes of a content that wait for their hash in memory; more do so on the disk."""
TARS: dict[str, Literal["w", "w:gz"]] = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
OWNER = 0o600
"""Nobody but its owner reads a backup: it has the hashes of keys, and what was asked of models."""


class Store(Protocol):
    """Takes contents in, and at last the manifest that makes them a backup."""

    @property
    def last(self) -> Snapshot | None:
        """The newest backup that is there already."""

    def has(self, digest: str, size: int) -> bool:
        """Whether the content with this hash is there."""

    def add(self, source: Path) -> tuple[str, int]:
        """Take the content of a file in, unless it is there; its hash and size. Raises OSError."""

    def finish(self, snapshot: Snapshot) -> None:
        """Make what was taken in a backup."""


def is_tar(target: Path) -> bool:
    """Whether a backup of that name is one file."""
    return _tar_mode(target) is not None


def _tar_mode(target: Path) -> Literal["w", "w:gz"] | None:
    return next((mode for ending, mode in TARS.items() if target.name.lower().endswith(ending)), None)


@contextlib.contextmanager
def writing(target: Path) -> Iterator[Store]:
    """A store at `target`: one file if it is named *.tar, *.tar.gz or *.tgz, otherwise a folder.

    The file takes its place at the end of the block, if that did not fail. Raises `UserError` for a folder that
    holds other things, and while another backup is written there.
    """
    mode = _tar_mode(target)
    if mode is None:
        with _folder(target) as store:
            yield store
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.draft(target, sync=True) as beside:
        beside.touch(OWNER, exist_ok=False)
        with tarfile.open(beside, mode) as tar:
            yield _Tar(tar, target.parent)


@contextlib.contextmanager
def _folder(target: Path) -> Iterator[_Folder]:
    check_target(target)
    (target / OBJECTS).mkdir(parents=True, exist_ok=True, mode=0o700)
    (target / SNAPSHOTS).mkdir(exist_ok=True, mode=0o700)
    try:
        with FileLock(target / ".lock", blocking=False):
            files.write(target / MARK, "Backups of Genloom; genloom ops restore reads them.\n")
            for left in (target / OBJECTS).glob(".incoming-*"):  # of a backup that was killed
                left.unlink()
            yield _Folder(target)
    except Timeout as error:
        raise UserError(f"Another backup is written to {target} just now; wait for it.") from error


def check_target(target: Path) -> None:
    """Raise `UserError` unless `target` can become or take a backup."""
    if is_tar(target):
        if target.is_dir():
            raise UserError(f"{target} is a folder; name a file that is not there, or a folder without .tar.")
        return
    if target.is_file():
        raise UserError(f"{target} is a file; name it *.tar or *.tar.gz, or name a folder.")
    if target.is_dir() and any(target.iterdir()) and not _marked(target):
        raise UserError(f"The folder {target} holds other things than backups; name an empty or a new one.")


def _marked(target: Path) -> bool:
    return (target / MARK).is_file() or (target / OBJECTS).is_dir()


@dataclass
class _Folder:
    """A folder of backups that share contents."""

    folder: Path

    @property
    def last(self) -> Snapshot | None:
        """The newest that can be read; one that was altered is of no use to the next."""
        for path in reversed(_manifests(self.folder)):
            with contextlib.suppress(UserError):
                return read_manifest(path.read_bytes(), str(path))
        return None

    def has(self, digest: str, size: int) -> bool:
        """By name and size; what is in the file is looked at when it is restored."""
        with contextlib.suppress(OSError):
            return _object(self.folder, digest).stat().st_size == size
        return False

    def add(self, source: Path) -> tuple[str, int]:
        """The hash is that of the bytes that were copied, whoever writes to the file meanwhile."""
        incoming = self.folder / OBJECTS / f".incoming-{secrets.token_hex(8)}"
        try:
            with source.open("rb") as old, os.fdopen(_create(incoming), "wb") as new:
                digest, size = copied(old, new)
                new.flush()
                os.fsync(new.fileno())
            if not self.has(digest, size):
                place = _object(self.folder, digest)
                place.parent.mkdir(exist_ok=True, mode=0o700)
                incoming.replace(place)
        finally:
            incoming.unlink(missing_ok=True)
        return digest, size

    def finish(self, snapshot: Snapshot) -> None:
        """Write the manifest, atomically."""
        path = self.folder / SNAPSHOTS / f"{snapshot.name}.json"
        files.write(path, write_manifest(snapshot), mode=OWNER, sync=True)


@dataclass
class _Tar:
    """One backup as a file; unpacked it is a folder of backups. Contents wait for their hash beside it."""

    tar: tarfile.TarFile
    beside: Path
    sizes: dict[str, int] = field(default_factory=dict)
    last: Snapshot | None = None

    def has(self, digest: str, size: int) -> bool:
        """Whether it was taken in before."""
        return self.sizes.get(digest) == size

    def add(self, source: Path) -> tuple[str, int]:
        """A tar wants name and size before the content, so the content is first copied and hashed."""
        with source.open("rb") as old, _spool(self.beside) as spool:
            digest, size = copied(old, spool)
            if not self.has(digest, size):
                spool.seek(0)
                self._write(f"{OBJECTS}/{digest[:2]}/{digest}", spool, size)
                self.sizes[digest] = size
        return digest, size

    def finish(self, snapshot: Snapshot) -> None:
        """Put the mark and the manifest behind the contents."""
        for name, content in ((MARK, b""), (f"{SNAPSHOTS}/{snapshot.name}.json", write_manifest(snapshot))):
            self._write(name, io.BytesIO(content), len(content))

    def _write(self, name: str, stream: IO[bytes] | tempfile.SpooledTemporaryFile[bytes], size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, OWNER
        self.tar.addfile(member, stream)


def _spool(beside: Path) -> tempfile.SpooledTemporaryFile[bytes]:
    return tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(beside))


def copied(old: IO[bytes], new: IO[bytes] | tempfile.SpooledTemporaryFile[bytes]) -> tuple[str, int]:
    """Copy a stream; the sha256 and the number of the bytes."""
    digest, size = hashlib.sha256(), 0
    while piece := old.read(PIECE):
        digest.update(piece)
        size += new.write(piece)
    return digest.hexdigest(), size


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER)


def _object(folder: Path, digest: str) -> Path:
    return folder / OBJECTS / digest[:2] / digest


def _manifests(folder: Path) -> list[Path]:
    """The manifests in a folder of backups, the oldest first."""
    found = [path for path in (folder / SNAPSHOTS).glob("*.json") if NAME.fullmatch(path.stem)]
    return sorted(found, key=lambda path: _order(path.stem))


def _order(name: str) -> tuple[str, int]:
    """Where a name is in time: of two of the same second the second one has the number 2."""
    time, _, number = name.partition("-")
    return time, int(number or 1)


def names(source: Path) -> list[str]:
    """The backups in a folder, the oldest first."""
    return [path.stem for path in _manifests(source)]


def read_snapshot(source: Path, at: str | None = None) -> Snapshot:
    """The manifest of the newest backup at `source`, or of the one called `at`. Raises `UserError`."""
    if source.is_dir():
        found = names(source)
        if not found:
            raise UserError(
                f"The folder {source} holds no whole backup; make one with genloom ops backup {source}."
            )
        name = at or found[-1]
        if name not in found:
            raise unknown("backup", name, found)
        return read_manifest((source / SNAPSHOTS / f"{name}.json").read_bytes(), f"{source} ({name})")
    for name, stream in _members(source):
        if name.startswith(f"{SNAPSHOTS}/"):
            snapshot = read_manifest(stream.read(), str(source))
            if at not in (None, snapshot.name):
                raise unknown("backup", str(at), [snapshot.name])
            return snapshot
    raise UserError(f"The file {source} is no whole backup: it has no manifest; take another one.")


def contents(source: Path, wanted: Iterable[str]) -> Iterator[tuple[str, IO[bytes]]]:
    """The contents with the hashes `wanted` that are there, one after the other: hash and stream."""
    if source.is_dir():
        for digest in sorted(set(wanted)):
            with contextlib.suppress(FileNotFoundError), _object(source, digest).open("rb") as content:
                yield digest, content
        return
    left = set(wanted)
    for name, stream in _members(source):
        digest = name.rpartition("/")[2]
        if name.startswith(f"{OBJECTS}/") and digest in left:
            left.remove(digest)
            yield digest, stream


def _members(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The files in a tar, in their order; `UserError` where it is none, or was cut off."""
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, stream
    except FileNotFoundError as error:
        raise UserError(f"There is no backup {source}; name the folder or the file of one.") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"The file {source} is no whole backup ({error}); take another one.") from error


def thin(folder: Path, keep: int) -> int:
    """Remove all but the newest `keep` backups, and the contents that no other has; the bytes that this freed."""
    manifests = _manifests(folder)
    kept = [
        read_manifest(path.read_bytes(), str(path)) for path in manifests[-keep:]
    ]  # or nothing is removed
    for path in manifests[:-keep]:
        path.unlink()
    named = {digest for snapshot in kept for digest in snapshot.objects}
    freed = 0
    for path in (folder / OBJECTS).glob("??/*"):
        if path.name not in named:
            freed += path.stat().st_size
            path.unlink()
    return freed
