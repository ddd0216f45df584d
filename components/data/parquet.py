"""Pictures in Parquet files, as Hugging Face and others store them: an image column, perhaps a label column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.dataset import Split
from components.data.example import OFFICIAL, Dropped, Entry, Source, legible
from components.data.images import read_picture
from components.errors import UserError, unknown
from components.image_rows import ParquetRow

ROWS = 256
"""Rows of encoded pictures that are read at once."""


def open_parquet(path: Path, row: ParquetRow) -> Source:
    """The rows of the Parquet file `path`, or of all those below it, sorted by path; raises `UserError`."""
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise UserError(f"There is no *.parquet in {path}; give a Parquet file or the folder of some.")
    facts = {file: _metadata(file) for file in files}
    first = facts[files[0]].schema.to_arrow_schema()
    label = row.label
    if label not in first.names and "label" not in row.model_fields_set:
        label = None  # only the default name: such a dataset has no classes
    for file in files:
        _check(file, facts[file].schema.to_arrow_schema(), row.image, label)
    splits = _splits(path, files)
    table = _Table(path, row, label, _class_names(first, label))
    return Source(
        shape=(row.channels, *row.size),
        total=sum(fact.num_rows for fact in facts.values()),
        entries=(found for file in files for found in table.rows(file, splits.get(file))),
        classes=table.classes,
        ignored=tuple(sorted(set(first.names) - {row.image, label})),
    )


@dataclass(frozen=True)
class _Table:
    """The files of a dataset as one table: where its pictures and labels stand."""

    root: Path
    row: ParquetRow
    label: str | None
    classes: tuple[str, ...]

    def rows(self, file: Path, split: Split | None) -> Iterator[Entry | Dropped]:
        """The entries of one file, read a few hundred rows at a time."""
        columns = [self.row.image, *([self.label] if self.label else [])]
        name = legible(file.name if file == self.root else file.relative_to(self.root).as_posix())
        number = 0
        with _whole(file), pq.ParquetFile(file) as table:
            for batch in table.iter_batches(ROWS, columns=columns):
                pictures = batch.column(self.row.image).to_pylist()
                labels = batch.column(self.label).to_pylist() if self.label else [None] * len(pictures)
                for picture, label in zip(pictures, labels, strict=True):
                    yield self._found(f"{name}#{number}", picture, label, split)
                    number += 1

    def _found(self, name: str, picture: Any, label: Any, split: Split | None) -> Entry | Dropped:
        data = picture["bytes"] if isinstance(picture, dict) else picture
        if data is None:
            return Dropped(name, "without the bytes of a picture")
        if self.label is not None and label is None:
            return Dropped(name, "without a label")
        if self.classes and isinstance(label, int):
            if not 0 <= label < len(self.classes):
                return Dropped(name, "with a label that has no name")
            label = self.classes[label]
        row = self.row
        load = partial(read_picture, data, row.size, row.channels, row.fit)
        return Entry(name, load, None if label is None else str(label), split)


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turn Arrow's errors about a damaged file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{file} is no whole Parquet file ({cause}); copy it again or remove it.") from error


def _metadata(file: Path) -> pq.FileMetaData:
    with _whole(file):
        return pq.read_metadata(file)


def _check(file: Path, schema: pa.Schema, image: str, label: str | None) -> None:
    """Raise `UserError` unless `file` has the columns, and they are of types that can be read."""
    for column in (image, label):
        if column is not None and column not in schema.names:
            raise unknown(f"column in {file}", column, schema.names)
        if column is not None and schema.names.count(column) > 1:
            raise UserError(f"{file} has two columns “{column}”; rename one and write the file again.")
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(f"The column “{image}” of {file} holds {kind}, not encoded pictures; name another.")
    if label is None:
        return
    kind = schema.field(label).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(
            f"The column “{label}” of {file} holds {kind}, not texts or whole numbers; name another."
        )


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """The names of the classes in Hugging Face's features, or () if there are none or the metadata is damaged."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return ()
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    whole = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return tuple(map(legible, found)) if whole else ()


def _splits(root: Path, files: list[Path]) -> dict[Path, Split]:
    """The official split of each file, if all file names (or their folders) begin with one, train among them."""
    found: dict[Path, Split] = {}
    for file in files:
        parts = (file.name,) if file == root else file.relative_to(root).parts
        words = (re.split(r"[-_.]", part)[0].lower() for part in parts)
        official = [OFFICIAL[word] for word in words if word in OFFICIAL]
        if official:
            found[file] = official[-1]
    return found if len(found) == len(files) and "train" in found.values() else {}
