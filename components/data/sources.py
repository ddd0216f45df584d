"""From a dataset's row to its entries: the bundled digits, MNIST's format, and the dispatch to the others."""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from components.data.archive import open_archive
from components.data.dataset import Split
from components.data.example import Entry, Pixels, Progress, Source
from components.data.fetch import fetch
from components.data.folder import open_folder
from components.data.parquet import open_parquet, open_remote_parquet
from components.errors import UserError
from components.image_rows import ArchiveRow, DigitsRow, FolderRow, IdxRow, ImageRow, ParquetRow
from components.project import Project
from components.settings import expanded


def open_source(project: Project, row: ImageRow, progress: Progress) -> Source:
    """The entries that `row` describes, in an order that only its content decides; raises `UserError`."""
    if isinstance(row, DigitsRow):
        return _digits()
    if isinstance(row, IdxRow):
        return _idx(project, row, progress)
    if isinstance(row, ArchiveRow):
        return open_archive(project, row, progress)
    if isinstance(row, FolderRow):
        return open_folder(source_path(project, row.path), row)
    assert isinstance(row, ParquetRow)
    if row.path is None:
        return open_remote_parquet(project, row, progress)
    return open_parquet(source_path(project, row.path), row)


def source_path(project: Project, path: str) -> Path:
    """Where a row's data lie; a relative path counts from the project. `UserError` if nothing is there."""
    place = project.root / expanded(path, "A path in params.yaml")
    if not place.exists():
        raise UserError(
            f"There is no {place}, where params.yaml says that data are; correct the “path” there."
        )
    return place


def _digits() -> Source:
    """scikit-learn's digits, whose levels 0 … 16 become 0 … 255."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pictures = np.round(found.images * (255 / 16)).astype(np.uint8)[:, None]
    return _arrays("digits", [(pictures, found.target, None)])


def _idx(project: Project, row: IdxRow, progress: Progress) -> Source:
    """MNIST's files; those for training and for testing are official splits."""
    paths = {str(part): fetch(file, project.settings, progress) for part, file in row.files.items()}
    if "train_images" not in paths:
        raise UserError(
            "A dataset of the source “idx” needs train_images; add them to its “files” in params.yaml."
        )
    arrays = {part: _read_idx(path) for part, path in paths.items()}
    size = arrays["train_images"].shape[1:]
    parts: list[tuple[Pixels, Any, Split | None]] = []
    for split in ("train", "test"):
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if images is None:
            continue
        shapes = (images.shape, None if labels is None else labels.shape)
        if images.ndim != 3 or images.shape[1:] != size or shapes[1] not in (None, images.shape[:1]):
            raise UserError(
                f"The {split} files hold arrays of {shapes[0]} and {shapes[1]}, not pictures [N, H, W] of one size "
                "with labels [N]; correct “files” in params.yaml."
            )
        parts.append((images[:, None], labels, split))
    if len({labels is None for _, labels, _ in parts}) > 1:
        raise UserError(
            "One of train_labels and test_labels is missing, so half of the pictures would have no class; add it to "
            "“files” in params.yaml, or leave out both."
        )
    return _arrays("idx", parts)


def _read_idx(path: Path) -> Pixels:
    """An array of bytes in the IDX format, mapped into memory.

    The header is two zero bytes, the type (8: unsigned byte), the number of dimensions, and each dimension as
    a big-endian 32-bit number (Y. LeCun's page on MNIST).
    """
    with path.open("rb") as stream:
        start, kind, dimensions = struct.unpack(">HBB", stream.read(4).ljust(4, b"\xff"))
        header = stream.read(4 * dimensions)
    shape = tuple(int.from_bytes(header[place : place + 4], "big") for place in range(0, 4 * dimensions, 4))
    offset = 4 + 4 * dimensions
    if start != 0 or kind != 8 or offset + math.prod(shape) != path.stat().st_size:
        raise UserError(f"{path} is no whole IDX file of unsigned bytes; correct “files” in params.yaml.")
    return np.memmap(path, np.uint8, "r", offset=offset, shape=shape)


def _arrays(name: str, parts: list[tuple[Pixels, Any, Split | None]]) -> Source:
    """Entries from arrays: pictures [N, 1, H, W], labels [N] or None, the official split."""
    entries = [
        Entry(
            name=f"{split or name}#{index}",
            load=partial(np.ascontiguousarray, pictures[index]),
            label=None if labels is None else str(labels[index]),
            split=split,
        )
        for pictures, labels, split in parts
        for index in range(len(pictures))
    ]
    _, channels, height, width = parts[0][0].shape
    return Source(shape=(channels, height, width), total=len(entries), entries=entries)
