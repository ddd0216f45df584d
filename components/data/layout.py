"""How files in folders or archives are classed: class folders, official splits, or a `metadata.jsonl`.

It is read as that of Hugging Face's imagefolder and audiofolder.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.dataset import Split
from components.data.example import OFFICIAL, Dropped, legible
from components.data.trees import Tree
from components.errors import UserError, unknown

METADATA = "metadata.jsonl"


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a tree with what its place, or the metadata, say of it."""

    file: str
    label: str | None = None
    split: Split | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Sorted:
    """The files of a tree, and why some are left out; the columns of the metadata that are not used."""

    files: list[Found | Dropped]
    ignored: tuple[str, ...] = ()


def named_files(tree: Tree, noun: str) -> list[str]:
    """The files of a tree but for its metadata; raises `UserError` if there are none. `noun` says what they hold."""
    files = [file for file in tree.files if posixpath.basename(file) != METADATA]
    if not files:
        raise UserError(f"The folder {tree.where} is empty; put {noun}s into it, one folder a class.")
    return files


def sort_files(tree: Tree, files: Sequence[str], split: Split | None, caption: str | None = None) -> Sorted:
    """Class and split of `files`, all of the official `split` if one is given; raises `UserError`.

    `caption` is the key of the captions in the metadata, if they are wanted.
    """
    described = _read_metadata(tree, caption)
    official = split is None and is_official(files)
    classes = any(len(_below_split(file, official)) > 1 for file in files)
    layout = _Layout(official, split, classes, described, caption is not None)
    found = [_found(file, layout) for file in files]
    missing = [] if described is None else sorted(described.labels.keys() - set(files))
    found += [Dropped(legible(file), f"named in {METADATA}, but not there") for file in missing]
    return Sorted(found, () if described is None else described.ignored)


@dataclass(frozen=True)
class _Described:
    """What the metadata files say: label and caption of each path, and the columns that are not used."""

    labels: Mapping[str, str | None]
    captions: Mapping[str, str | None]
    ignored: tuple[str, ...]

    @property
    def labelled(self) -> bool:
        return any(label is not None for label in self.labels.values())


@dataclass(frozen=True)
class _Layout:
    """How the tree is to be read: are its top folders official splits, has it class folders, metadata?"""

    official: bool
    split: Split | None
    classes: bool
    described: _Described | None
    captions: bool


def is_official(files: Sequence[str]) -> bool:
    """Whether the top folders are train and other official splits, and nothing else."""
    top = {file.split("/")[0].lower() for file in files if "/" in file}
    return "train" in top and top <= OFFICIAL.keys()


def _below_split(file: str, official: bool) -> list[str]:
    parts = file.split("/")
    return parts[1:] if official and len(parts) > 1 else parts


def split_by_folder(file: str) -> Split | Dropped:
    """The official split that the top folder of a file stands for."""
    top, _, rest = file.partition("/")
    if not rest:
        return Dropped(legible(file), "beside the folders of the splits, so in none of them")
    return OFFICIAL[top.lower()]


def _found(file: str, layout: _Layout) -> Found | Dropped:
    """One file with its class and split, or why it is left out."""
    name = legible(file)
    split = split_by_folder(file) if layout.official else layout.split
    if isinstance(split, Dropped):
        return split
    label = caption = None
    if layout.described is not None:
        if file not in layout.described.labels:
            return Dropped(name, f"not named in {METADATA}")
        label, caption = layout.described.labels[file], layout.described.captions[file]
        if label is None and layout.described.labelled:
            return Dropped(name, f"without a label in {METADATA}")
        if caption is None and layout.captions:
            return Dropped(name, f"without a caption in {METADATA}")
    elif layout.classes:
        parts = _below_split(file, layout.official)
        if len(parts) == 1:
            return Dropped(name, "beside the folders of the classes, so in none of them")
        label = legible(parts[0])
    return Found(file, label, split, caption)


def _read_metadata(tree: Tree, caption: str | None) -> _Described | None:
    """What all `metadata.jsonl` of the tree say, or None if there is none; raises `UserError`.

    `caption` is the key of the captions, if they are wanted.
    """
    tables = [file for file in tree.files if posixpath.basename(file) == METADATA]
    if not tables:
        if caption is not None:
            raise UserError(
                f"There is no {METADATA} in {tree.where} that could hold the captions “{caption}”; write one as "
                "docs/data.md shows, or leave caption out of the row."
            )
        return None
    labels: dict[str, str | None] = {}
    captions: dict[str, str | None] = {}
    columns: set[str] = set()
    for table in tables:
        for number, line in enumerate(tree.lines(table), start=1):
            if line.strip():
                where = f"{tree.place(table)}, line {number}"
                content = _line(line, where)
                path = posixpath.normpath(posixpath.join(posixpath.dirname(table), content["file_name"]))
                labels[path] = _label(content, where)
                captions[path] = _caption(content, caption, where)
                columns |= content.keys()
    if caption is not None and caption not in columns:
        raise unknown(f"key in {tree.place(tables[0])}", caption, sorted(map(legible, columns)))
    return _Described(
        labels, captions, tuple(map(legible, sorted(columns - {"file_name", "label", caption})))
    )


def _line(text: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
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


def _caption(content: Mapping[str, Any], key: str | None, where: str) -> str | None:
    found = content.get(key) if key is not None else None
    if found is None:
        return None
    if not isinstance(found, str):
        raise UserError(f"{where} has the caption {found!r}; a caption is a text.")
    return legible(found).strip() or None
