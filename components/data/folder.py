"""Pictures in folders or archives: class folders, files with a `metadata.jsonl`, or pairs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from components.data.dataset import Split
from components.data.example import Dropped, Entry, Pixels, Source, legible
from components.data.images import read_picture
from components.data.layout import Found, is_official, named_files, sort_files
from components.data.paired import find_pairs
from components.data.trees import Folder, Tree
from components.image_rows import FolderRow, TreeRow


def open_folder(root: Path, row: FolderRow) -> Source:
    """The pictures below `root`, sorted by path; hidden files are not looked at. Raises `UserError`."""
    return open_tree(Folder(root), row)


def open_tree(tree: Tree, row: TreeRow, split: Split | None = None) -> Source:
    """The pictures of a tree, all of the official `split` if one is given; raises `UserError`."""
    shape = (row.channels, *row.size)
    pictures = named_files(tree, "picture")
    if row.paired:
        pairs = find_pairs(tree, pictures, row, split is None and is_official(pictures), split)
        return Source(shape=shape, total=len(pairs), entries=pairs, paired=True)
    found = sort_files(tree, pictures, split, row.caption)
    entries = [_entry(tree, file, row) for file in found.files]
    return Source(shape=shape, total=len(entries), entries=entries, ignored=found.ignored)


def _entry(tree: Tree, found: Found | Dropped, row: TreeRow) -> Entry | Dropped:
    if isinstance(found, Dropped):
        return found
    load = partial(_read, tree, found.file, row)
    return Entry(legible(found.file), load, found.label, found.split, found.caption)


def _read(tree: Tree, file: str, row: TreeRow) -> Pixels:
    return read_picture(tree.content(file), row.size, row.channels, row.fit)
