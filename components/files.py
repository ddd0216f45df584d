"""Files and folders that are whole or not there: written beside their place, then put there by a rename."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def draft(path: Path, sync: bool = False) -> Iterator[Path]:
    """A free path beside `path`: the file or folder that the block makes there takes the place of `path` at its end.

    If the block fails, `path` stays as it was and nothing is left beside it; OSError passes as it is. With `sync` a
    file is on the disk before it is in its place. Of several writers of a file the last one wins; a folder has one
    writer at a time.
    """
    # not the process's number, which is unique neither among threads nor among the nodes of a shared folder
    beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        yield beside
        if sync:
            with beside.open("rb") as written:
                os.fsync(written.fileno())
        _put(beside, path)
    finally:
        _remove(beside)


def write(path: Path, content: bytes | str, mode: int = 0o666, sync: bool = False) -> None:
    """Make `content`, text as UTF-8, the whole file at `path`; it never has more permissions than `mode`."""
    with draft(path, sync) as beside:
        beside.touch(mode, exist_ok=False)
        beside.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def append(path: Path, lines: str) -> None:
    """Add `lines` to the end of a file that its owner alone reads, in one call: several processes may do so."""
    where = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(where, lines.encode("utf-8", "surrogatepass"))
    finally:
        os.close(where)


def _put(beside: Path, path: Path) -> None:
    """Rename `beside` to `path`; between two renames where one folder replaces another, `path` is not there."""
    if not (beside.is_dir() and path.is_dir()):
        beside.replace(path)
        return
    old = path.with_name(f".{path.name}-old-{secrets.token_hex(4)}")
    path.rename(old)
    try:
        beside.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(beside: Path) -> None:
    """Remove what is there; what cannot be removed must not hide the error that made it superfluous."""
    with contextlib.suppress(OSError):
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink()
