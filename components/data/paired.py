"""Pairs in two folders: `target` holds what is wanted and `source`, under the same names, what it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

from components.data.dataset import Split
from components.data.example import OFFICIAL, Dropped, Entry, Pixels, legible
from components.data.images import read_stack
from components.data.trees import Tree
from components.errors import UserError
from components.image_rows import TreeRow

End = Literal["source", "target"]
ENDS: tuple[End, End] = ("target", "source")


def is_paired(files: Sequence[str]) -> bool:
    """Whether files lie in folders `source` and `target`, perhaps below official splits, and nowhere else."""
    tops = {_apart(file)[1] for file in files}
    return tops == set(ENDS)


def find_pairs(
    tree: Tree, files: Sequence[str], row: TreeRow, official: bool, split: Split | None
) -> list[Entry | Dropped]:
    """The pairs among `files`, by name without its suffix; `UserError` if there is no folder `source` or `target`."""
    ends: dict[End, dict[tuple[str, str], str]] = {"target": {}, "source": {}}
    found: list[Entry | Dropped] = []
    for file in files:
        top, end, name = _apart(file, official)
        if end not in ends:
            found.append(Dropped(legible(file), "in neither of the folders source and target"))
        elif (top, name) in ends[end]:
            found.append(Dropped(legible(file), "of the same name as another but for its suffix"))
        else:
            ends[end][top, name] = file
    for end in ENDS:
        if not ends[end]:
            raise UserError(
                f"There is no folder “{end}” with pictures in {tree.where}; pairs need source and target."
            )
    return found + _matched(tree, ends, row, split)


def _matched(
    tree: Tree, ends: Mapping[End, Mapping[tuple[str, str], str]], row: TreeRow, split: Split | None
) -> list[Entry | Dropped]:
    found: list[Entry | Dropped] = []
    for key in sorted(ends["target"].keys() | ends["source"].keys()):
        target, source = (ends[end].get(key) for end in ENDS)
        if target is None or source is None:
            lack = "source" if source is None else "target"
            found.append(Dropped(legible(str(target or source)), f"without a picture of its name in {lack}"))
        else:
            load = partial(_read, tree, target, source, row)
            found.append(Entry(legible(target), load, None, OFFICIAL[key[0]] if key[0] else split))
    return found


def _apart(file: str, official: bool | None = None) -> tuple[str, str, str]:
    """The official split (or ""), the folder that says which end it is, and the rest of a path without suffix."""
    parts = file.split("/")
    if official is None:
        official = parts[0].lower() in OFFICIAL
    split = parts.pop(0).lower() if official and len(parts) > 1 else ""
    end = parts.pop(0).lower() if len(parts) > 1 else ""
    name = "/".join(parts)
    stem, dot, suffix = name.rpartition(".")
    return split, end, stem if dot and "/" not in suffix else name


def _read(tree: Tree, target: str, source: str, row: TreeRow) -> Pixels:
    pictures = [tree.content(file) for file in (target, source)]
    return read_stack(pictures, row.size, row.channels, row.fit)
