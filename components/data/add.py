"""A person's own data enters the project: looked at first, then a row, a product, runs and a stage at once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedSeq

from components.data.example import Dropped, NotAPicture, silent
from components.data.sources import open_source
from components.data.stages import check_path, ensure_stage, ensure_workspace
from components.errors import UserError
from components.project import FolderRow, ParquetRow, PicturesRow, Project, add_dataset, open_project


@dataclass(frozen=True)
class Survey:
    """What a source holds at first sight: entries of each class, what is left out and why, unused columns.

    Entries are not decoded, except the first ones, until one is a picture.
    """

    entries: int
    classes: Mapping[str, int]
    dropped: Mapping[str, int]
    ignored: tuple[str, ...]


def describe(project: Project, path: Path, options: Mapping[str, Any]) -> FolderRow | ParquetRow:
    """The row for the pictures at `path`: Parquet if it is such a file or holds some, else a folder of images.

    `options` are other fields of the row. Raises `UserError` if there is no `path`, or it holds the project's data.
    """
    place = path.expanduser().resolve()
    if not place.exists():
        raise UserError(f"There is no {place}; give the folder that holds your pictures.")
    if project.prepared.is_relative_to(place):
        raise UserError(
            f"{place} holds the project's own prepared data; give the folder of your pictures alone."
        )
    inside = place.is_relative_to(project.root)
    where = place.relative_to(project.root).as_posix() if inside else place.as_posix()
    check_path(where)
    if place.suffix == ".parquet" or next(place.rglob("*.parquet"), None) is not None:
        return ParquetRow(source="parquet", path=where, **options)
    columns = sorted({"image", "label"} & options.keys())
    if columns:
        raise UserError(
            f"{place} holds no Parquet file; leave out {' and '.join(f'--{name}' for name in columns)}."
        )
    return FolderRow(source="folder", path=where, **options)


def survey(project: Project, row: PicturesRow) -> Survey:
    """Look at a source without preparing it; raises `UserError` if it holds no picture."""
    assert isinstance(row, FolderRow | ParquetRow)
    source = open_source(project, row, silent)
    classes: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    entries, proved = 0, False
    for entry in source.entries:
        if isinstance(entry, Dropped):
            dropped[entry.reason] += 1
            continue
        try:
            if not proved:
                entry.load()
                proved = True
        except NotAPicture as reason:
            dropped[str(reason)] += 1
            continue
        entries += 1
        classes.update([entry.label] if entry.label is not None else [])
    if not proved:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common(3))
        raise UserError(
            f"{row.path} holds no picture that can be read ({reasons or 'no rows'}); put pictures there."
        )
    return Survey(entries, dict(sorted(classes.items())), dict(dropped.most_common()), source.ignored)


def add(project: Project, name: str, row: FolderRow | ParquetRow) -> Survey:
    """Survey the row's source, write the row with a product and runs, and the DVC stage; all or nothing.

    Raises `UserError` if the name is taken or the source holds no picture; `params.yaml` is then as it was.
    """
    found = survey(project, row)
    params = project.root / "params.yaml"
    before = params.read_bytes()
    add_dataset(project, name, _written(row))
    try:
        ensure_workspace(project)
        ensure_stage(open_project(project.root), name)
    except BaseException:
        draft = params.with_name(f".params-{os.getpid()}.yaml")
        draft.write_bytes(before)
        draft.replace(params)
        raise
    return found


def _written(row: FolderRow | ParquetRow) -> dict[str, Any]:
    """The row as it is written for people: the source first, the size on one line."""
    content = row.model_dump(mode="json", exclude_unset=True)
    if "size" in content:
        content["size"] = CommentedSeq(content["size"])
        content["size"].fa.set_flow_style()
    return {"source": content.pop("source"), **content}
