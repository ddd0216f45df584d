"""A person's own images: class folders, or files with a `metadata.jsonl` as in Hugging Face's imagefolder."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.data.dataset import Split
from components.data.example import OFFICIAL, Dropped, Entry, Source, legible
from components.data.images import read_picture
from components.errors import UserError
from components.image_rows import FolderRow

METADATA = "metadata.jsonl"


def open_folder(root: Path, row: FolderRow) -> Source:
    """The pictures below `root`, sorted by path; hidden files are not looked at. Raises `UserError`."""
    if not root.is_dir():
        raise UserError(f"{root} is no folder; give the folder that holds the pictures.")
    files = list(_walk(root))
    described = _read_metadata(root, files)
    pictures = [file for file in files if posixpath.basename(file) != METADATA]
    if not pictures:
        raise UserError(f"The folder {root} is empty; put pictures into it, one folder a class.")
    official = _is_official(pictures)
    classes = any(len(_below_split(file, official)) > 1 for file in pictures)
    layout = _Layout(official, classes, described)
    found = [_found(root, file, layout, row) for file in pictures]
    missing = [] if described is None else sorted(described.labels.keys() - set(pictures))
    found += [Dropped(legible(file), f"named in {METADATA}, but not there") for file in missing]
    ignored = () if described is None else described.ignored
    return Source(shape=(row.channels, *row.size), total=len(found), entries=found, ignored=ignored)


@dataclass(frozen=True)
class _Described:
    """What the metadata files say: the label of each path, and the columns that are not used."""

    labels: Mapping[str, str | None]
    ignored: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        return any(label is not None for label in self.labels.values())


@dataclass(frozen=True)
class _Layout:
    """How the folder is to be read: are its top folders official splits, has it class folders, metadata?"""

    official: bool
    classes: bool
    described: _Described | None


def _walk(root: Path) -> Iterator[str]:
    """All files below `root` by relative path with slashes, sorted; a link to a folder stands for itself."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        for name in sorted([*files, *links]):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _is_official(files: list[str]) -> bool:
    """Whether the top folders are train and other official splits, and nothing else."""
    top = {file.split("/")[0].lower() for file in files if "/" in file}
    return "train" in top and top <= OFFICIAL.keys()


def _below_split(file: str, official: bool) -> list[str]:
    parts = file.split("/")
    return parts[1:] if official and len(parts) > 1 else parts


def _found(root: Path, file: str, layout: _Layout, row: FolderRow) -> Entry | Dropped:
    """One file as an entry, or why it is left out."""
    top, _, rest = file.partition("/")
    name = legible(file)
    if layout.official and not rest:
        return Dropped(name, "beside the folders of the splits, so in none of them")
    split: Split | None = OFFICIAL[top.lower()] if layout.official else None
    label = None
    if layout.described is not None:
        if file not in layout.described.labels:
            return Dropped(name, f"not named in {METADATA}")
        label = layout.described.labels[file]
        if label is None and layout.described.labelled:
            return Dropped(name, f"without a label in {METADATA}")
    elif layout.classes:
        parts = _below_split(file, layout.official)
        if len(parts) == 1:
            return Dropped(name, "beside the folders of the classes, so in none of them")
        label = legible(parts[0])
    load = partial(read_picture, root / file, row.size, row.channels, row.fit)
    return Entry(name, load, label, split)


def _read_metadata(root: Path, files: list[str]) -> _Described | None:
    """What all `metadata.jsonl` below `root` say, or None if there is none; raises `UserError`."""
    tables = [file for file in files if posixpath.basename(file) == METADATA]
    if not tables:
        return None
    labels: dict[str, str | None] = {}
    columns: set[str] = set()
    for table in tables:
        with (root / table).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    content = _line(line, f"{root / table}, line {number}")
                    path = posixpath.join(posixpath.dirname(table), content["file_name"])
                    labels[posixpath.normpath(path)] = _label(content, f"{root / table}, line {number}")
                    columns |= content.keys()
    return _Described(labels, tuple(map(legible, sorted(columns - {"file_name", "label"}))))


def _line(text: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}); mend or remove the line.") from error
    if not isinstance(content, dict) or not isinstance(content.get("file_name"), str):
        raise UserError(f"{where} has no “file_name”; write an object such as {{“file_name”: “a.png”}}.")
    return content


def _label(content: Mapping[str, Any], where: str) -> str | None:
    label = content.get("label")
    if label is None:
        return None
    if isinstance(label, bool) or not isinstance(label, str | int):
        raise UserError(f"{where} has the label {label!r}; a label is a text or a whole number.")
    return legible(str(label))
