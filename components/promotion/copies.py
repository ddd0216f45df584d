"""Local copies of what the registry keeps: fetched once, whole or not at all, checked each time."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from components.artifact import read_manifest
from components.errors import UserError


def kept(name: str, folder: Path, check: Callable[[Path], None], download: Callable[[Path], Path]) -> Path:
    """`folder`, if it passes `check`; otherwise replaced by what `download` puts below the folder it is given.

    So a copy that was altered or lost a file is fetched again; an original that is not whole raises a
    `UserError` about the version `name` and leaves nothing behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            try:
                check(folder)
                return folder
            except UserError:
                shutil.rmtree(folder)
        draft = folder.with_name(f".{folder.name}-{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            copy = download(draft)
            check(copy)
            copy.rename(folder)
        except UserError as error:
            cause = str(error).replace(str(draft), name)
            raise UserError(f"The registry's files of {name} cannot be used: {cause}") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def check_artifact(folder: Path, digest: str) -> None:
    """Raise `UserError` unless the artifact in `folder` is whole and has `digest`."""
    found = read_manifest(folder)["digest"]
    if found != digest:
        raise UserError(
            f"The artifact {folder} has the digest {found[:12]} and was registered with {digest[:12]}; "
            "restore the registry's files from a backup."
        )


def report_name(evaluation: Path) -> str:
    """The first 16 digits of the hash of the report in `evaluation`; `UserError` if there is none."""
    path = evaluation / "report.json"
    if not path.is_file():
        raise UserError(f"The evaluation {evaluation} has no report.json; evaluate the model again.")
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def check_report(folder: Path, name: str) -> None:
    """Raise `UserError` unless the report in `folder` is the one called `name`."""
    if report_name(folder) != name:
        raise UserError(
            f"The file {folder / 'report.json'} was altered since it was registered; evaluate again."
        )
