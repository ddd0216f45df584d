"""Pictures on disk while a dataset is read: each content once, split by its hash, written as Parquet."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.dataset import SPLITS, Split
from components.data.example import Pixels
from components.row import Split as Shares

GROUP_ROWS, GROUP_BYTES, FILE_BYTES = 8192, 16 * 2**20, 512 * 2**20
"""The most rows and bytes of pictures in a row group, and bytes in a file."""

ALL = slice(None)
T = TypeVar("T")
Column = Callable[[Sequence[str]], pa.Array]
"""Makes a column for the rows of some contents."""
HELD_OUT: dict[Split | None, int] = {None: 0, "train": 0, "val": 1, "test": 2}


@dataclass(slots=True)
class _Place:
    """Where a picture's bytes stand in the file, and what the source says of it; `share` decides its split."""

    index: int
    label: str | None
    split: Split | None
    caption: str | None
    share: str


@dataclass
class Spool:
    """Pictures of one `shape` [C, H, W] in one flat file at `path`, with an index by content in memory.

    Of pairs, the first `target` channels are what is wanted: pairs of one target stand in one split, whatever
    they are made of. Of recordings, `noun` says so, and a row is their bytes, [1, 1, 2·samples]. Used as a context; a
    row costs its bytes on disk and about 300 bytes of memory.
    """

    path: Path
    shape: tuple[int, int, int]
    target: int | None = None
    noun: str = "picture"
    _places: dict[str, _Place] = field(default_factory=dict)

    def __enter__(self) -> Spool:
        self._file = self.path.open("wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink()

    def add(
        self, image: Pixels, label: str | None, split: Split | None, caption: str | None = None
    ) -> str | None:
        """Keep a picture, or return why not: its content is there already.

        Of a content in two official splits the held-out copy counts: tests stay whole and do not leak.
        """
        key = content_id(image)
        place = self._places.get(key)
        if place is None:
            share = key if self.target is None else content_id(image[: self.target])
            self._places[key] = _Place(len(self._places), label, split, caption, share)
            self._file.write(image.data)
            return None
        same = place.label == label
        if HELD_OUT[split] > HELD_OUT[place.split]:
            place.label, place.split, place.caption = label, split, caption
        reason = f"the same {self.noun} as another"
        return reason if same else f"{reason} in a different class"

    def classes(self) -> list[str]:
        """The names of the classes that pictures have, numbers in order of size before texts."""
        seen = {place.label for place in self._places.values() if place.label is not None}
        return sorted(
            seen, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
        )

    def splits(self, shares: Shares) -> dict[Split, list[str]]:
        """The contents of each split, sorted, which is a shuffled order that only the contents decide.

        Official splits are kept; those that the source lacks are cut from the rest by hash alone, so a picture
        stays in its split whatever is added. Of a target in two official splits all pairs go to the held-out one.
        """
        official = {place.split for place in self._places.values()}
        held_out = self._held_out()
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for key in sorted(self._places):
            share = self._places[key].share
            found[split_of(share, held_out[share], official, shares)].append(key)
        return found

    def _held_out(self) -> dict[str, Split | None]:
        """The official split of each share: the most held out that one of its pictures has."""
        found: dict[str, Split | None] = {}
        for place in self._places.values():
            known = found.setdefault(place.share, place.split)
            if HELD_OUT[place.split] > HELD_OUT[known]:
                found[place.share] = place.split
        return found

    def label(self, key: str) -> str | None:
        """The class of a content."""
        return self._places[key].label

    def caption(self, key: str) -> str | None:
        """What is said of a content."""
        return self._places[key].caption

    def revision(self, splits: Mapping[Split, Sequence[str]], classes: Sequence[str]) -> str:
        """The sha256 of what the dataset is: shape, classes, and each row's split, content and class."""
        digest = hashlib.sha256(json.dumps(["image", list(self.shape), list(classes)]).encode())
        for split, keys in splits.items():
            for key in keys:
                digest.update(json.dumps([split, key, self.label(key)]).encode())
        return digest.hexdigest()

    def pictures(self, keys: Sequence[str]) -> Pixels:
        """The pictures of these contents, uint8 [N, C, H, W]."""
        self._file.flush()
        rows = np.memmap(self.path, np.uint8, "r").reshape(-1, *self.shape)
        return np.asarray(rows[[self._places[key].index for key in keys]])

    def images(self, keys: Sequence[str], channels: slice = ALL) -> pa.Array:
        """The bytes of these contents, of some of their channels, as Parquet holds them."""
        return binary(self.pictures(keys)[:, channels])

    def labels(self, keys: Sequence[str], classes: Sequence[str]) -> pa.Array:
        """The numbers of the classes of these contents, −1 for a class that is not among them."""
        numbers = {name: number for number, name in enumerate(classes)}
        return pa.array([numbers.get(str(self.label(key)), -1) for key in keys], pa.int32())


def binary(rows: np.ndarray[Any, Any]) -> pa.Array:
    """Rows of numbers [N, …] as their bytes, each of the same size."""
    flat = np.ascontiguousarray(rows)
    size = flat.itemsize * math.prod(flat.shape[1:])
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(flat), [None, pa.py_buffer(flat)])


def write_columns(
    folder: Path, keys: Sequence[str], schema: pa.Schema, columns: Mapping[str, Column], size: int
) -> Iterator[tuple[Path, int]]:
    """Write rows of about `size` bytes to `folder`/00000.parquet and on; yields each file and how many rows it has.

    `columns` make the content of each field of `schema`, but of `id`, for some of the `keys`.
    """
    folder.mkdir(parents=True)
    group = max(1, min(GROUP_ROWS, GROUP_BYTES // size))
    file = max(1, FILE_BYTES // (group * size)) * group
    for count, part in enumerate(parts(keys, file)):
        path = folder / f"{count:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=["label"]) as writer:
            for some in parts(part, group):
                made = {
                    "id": pa.array(some, pa.string()),
                    **{name: make(some) for name, make in columns.items()},
                }
                writer.write_table(pa.table(made, schema=schema), row_group_size=group)
        yield path, len(part)


def content_id(image: Pixels) -> str:
    """The sha256 of a picture's shape and pixels, in hex."""
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(image.data)
    return digest.hexdigest()


def split_of(key: str, split: Split | None, official: set[Split | None], shares: Shares) -> Split:
    """The split of a content: a held-out official one, or by its hash where the source has none."""
    if split in ("val", "test"):
        return split
    place = int(key[:16], 16) / 2**64
    if "val" not in official and place < shares.val:
        return "val"
    if "test" not in official and shares.val <= place < shares.val + shares.test:
        return "test"
    return "train"


def parts(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """`items` in pieces of `size`, the last perhaps shorter."""
    for first in range(0, len(items), size):
        yield items[first : first + size]
