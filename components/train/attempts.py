"""The folder of a training: which it is, whether all is there already, and that one process works in it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from components.artifact import read_manifest
from components.errors import UserError
from components.settings import Settings
from components.train.runs import RunRecord, load_run


@dataclass(frozen=True)
class Trained:
    """A finished training: where its artifact is; `skipped` says that it was there already."""

    run_id: str
    folder: Path
    artifact: Path
    digest: str
    key: str
    tracking_run: str
    skipped: bool


def attempt(settings: Settings, run: str, key: str, fresh: bool) -> Path:
    """The folder of the latest attempt at this training; a new one if it is `fresh` and the latest is done."""
    first = settings.runs / f"{run}-{key[:10]}"
    number = 1
    while (settings.runs / f"{first.name}-{number + 1}").is_dir():
        number += 1
    latest = first if number == 1 else first.with_name(f"{first.name}-{number}")
    if fresh and finished(latest) is not None:
        return first.with_name(f"{first.name}-{number + 1}")
    return latest


def finished(folder: Path) -> Trained | None:
    """The training in `folder` if it is complete and its artifact whole."""
    if not (folder / "run.json").is_file():
        return None
    record = load_run(folder)
    if record.state != "done":
        return None
    try:
        return trained_of(record, skipped=True)
    except UserError:  # a damaged artifact is made again from the last checkpoint
        return None


def trained_of(record: RunRecord, skipped: bool) -> Trained:
    """The finished training of a record; raises `UserError` if its artifact is damaged."""
    digest = read_manifest(record.artifact)["digest"]
    return Trained(
        record.id, record.folder, record.artifact, digest, record.key, record.tracking_run, skipped
    )


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the run's lock; raises `UserError` if another process does."""
    try:
        with FileLock(folder / "lock", timeout=1):
            yield
    except Timeout as error:
        raise UserError(
            f"The run {folder.name} is being trained by another process; wait for it, "
            f"or type genloom runs stop {folder.name}."
        ) from error


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in a run's folder; the caller holds the lock."""
    for draft in [*folder.glob(".*-*"), *folder.glob("*/.step-*")]:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()
