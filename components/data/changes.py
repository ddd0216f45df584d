"""What changed in a prepared dataset since a commit, by the contents of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq

from components.data.dataset import SPLITS, open_dataset
from components.errors import UserError
from components.project import Project


@dataclass(frozen=True)
class Change:
    """The rows of a split before and now, and how many of the contents came and went."""

    split: str
    before: int
    now: int
    added: int
    removed: int


def changes(project: Project, name: str, commit: str = "HEAD") -> list[Change]:
    """Compare the prepared dataset with the one in the `dvc.lock` of a git commit, split by split.

    Raises `UserError` if the commit, or its data in DVC's cache and remotes, is not there.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    project.dataset(name)
    dataset = open_dataset(project.prepared / name)
    place = dataset.folder.relative_to(project.root).as_posix()
    found = []
    try:
        files = DVCFileSystem(str(project.root), rev=commit)
        for split in SPLITS:
            before = {
                key for path in files.glob(f"{place}/{split}/*.parquet") for key in _ids(files.open(path))
            }
            now = {key for path in dataset.paths(split) for key in _ids(path)}
            found.append(Change(split, len(before), len(now), len(now - before), len(before - now)))
    except (DvcException, SCMError, OSError) as error:
        raise UserError(
            f"The dataset “{name}” as of {commit} cannot be read ({error}); "
            "name a commit whose dvc.lock has it, and whose data DVC's cache or a remote holds."
        ) from error
    return found


def _ids(file: Path | IO[bytes]) -> list[str]:
    ids: list[str] = pq.read_table(file, columns=["id"]).column("id").to_pylist()
    return ids
