"""Pictures in Parquet files, as Hugging Face and others store them: an image column, perhaps a label column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.archive import official
from components.data.dataset import Split
from components.data.example import OFFICIAL, Dropped, Entry, Progress, Source, legible
from components.data.fetch import fetch
from components.data.images import read_stack
from components.errors import UserError, unknown
from components.image_rows import ParquetRow
from components.project import Project

ROWS = 256
"""Rows of encoded pictures that are read at once."""


def open_parquet(path: Path, row: ParquetRow) -> Source:
    """The rows of the Parquet file `path`, or of all those below it, sorted by path; raises `UserError`."""
    files = parquet_files(path)
    if not files:
        raise UserError(f"There is no *.parquet in {path}; give a Parquet file or the folder of some.")
    names = {file: file.name if file == path else file.relative_to(path).as_posix() for file in files}
    return open_tables(
        {file: (legible(names[file]), split) for file, split in _splits(path, files).items()}, row
    )


def parquet_files(path: Path) -> list[Path]:
    """The Parquet file `path`, or all below it; a writer's folders called so and hidden files are none."""
    if path.is_file():
        return [path]
    found = (file for file in path.rglob("*.parquet") if file.is_file())
    return sorted(file for file in found if not any(part[0] == "." for part in file.relative_to(path).parts))


def open_remote_parquet(project: Project, row: ParquetRow, progress: Progress) -> Source:
    """The rows of the Parquet files that `row` names by URL and hash; raises `UserError`."""
    files = {
        fetch(file, project.settings, progress): (part, official(part)) for part, file in row.files.items()
    }
    return open_tables(files, row)


def open_tables(tables: Mapping[Path, tuple[str, Split | None]], row: ParquetRow) -> Source:
    """The rows of Parquet files, each with what it is called and its official split; raises `UserError`."""
    files = list(tables)
    facts = {file: _metadata(file) for file in files}
    schemas = {file: fact.schema.to_arrow_schema() for file, fact in facts.items()}
    first = schemas[files[0]]
    label = row.label
    if label not in first.names and "label" not in row.model_fields_set:
        label = None  # only the default name: such a dataset has no classes
    for file in files:
        _check(file, schemas[file], row, label)
    classes = _class_names(first, label)
    for file in files if classes else ():
        if _class_names(schemas[file], label) not in ((), classes):
            raise UserError(
                f"{file} names other classes than {files[0]}, or in another order; write both alike."
            )
    table = _Table(row, label, classes)
    used = {row.image, label, row.caption, row.origin}
    return Source(
        shape=(row.channels, *row.size),
        total=sum(fact.num_rows for fact in facts.values()),
        entries=(found for file, (name, split) in tables.items() for found in table.rows(file, name, split)),
        classes=table.classes,
        ignored=tuple(sorted(set(first.names) - used)),
        paired=row.paired,
    )


@dataclass(frozen=True)
class _Table:
    """The files of a dataset as one table: where its pictures and labels stand."""

    row: ParquetRow
    label: str | None
    classes: tuple[str, ...]

    def rows(self, file: Path, name: str, split: Split | None) -> Iterator[Entry | Dropped]:
        """The entries of one file, read a few hundred rows at a time."""
        row, number = self.row, 0
        columns = [
            column for column in (row.image, row.origin, self.label, row.caption) if column is not None
        ]
        with whole_parquet(file), pq.ParquetFile(file) as table:
            for batch in table.iter_batches(ROWS, columns=columns):
                for found in batch.to_pylist():
                    yield self._found(f"{name}#{number}", found, split)
                    number += 1

    def _found(self, name: str, found: Mapping[str, Any], split: Split | None) -> Entry | Dropped:
        """One row as an entry, or why it is left out."""
        row = self.row
        cells = [_bytes(found[column]) for column in (row.image, row.origin) if column is not None]
        pictures = [cell for cell in cells if cell is not None]
        if len(pictures) < len(cells):
            return Dropped(name, "without the bytes of a picture")
        label = None if self.label is None else found[self.label]
        if self.label is not None and label is None:
            return Dropped(name, "without a label")
        if self.classes and isinstance(label, int):
            if not 0 <= label < len(self.classes):
                return Dropped(name, "with a label that has no name")
            label = self.classes[label]
        if self.classes and str(label) not in self.classes:
            return Dropped(name, "with a label that has no name")
        caption = None if row.caption is None else (found[row.caption] or "").strip()
        if caption == "":
            return Dropped(name, "without a caption")
        load = partial(read_stack, pictures, row.size, row.channels, row.fit)
        return Entry(name, load, None if label is None else str(label), split, caption)


def _bytes(picture: Any) -> bytes | None:
    """The encoded picture in a cell, which may be Hugging Face's struct."""
    found: bytes | None = picture["bytes"] if isinstance(picture, dict) else picture
    return found


@contextmanager
def whole_parquet(file: Path | str) -> Iterator[None]:
    """Turn Arrow's errors about a damaged file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{file} is no whole Parquet file ({cause}); copy it again or remove it.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"A text in {file} is not UTF-8 ({error}); write the file again with whole texts."
        ) from error


def _metadata(file: Path) -> pq.FileMetaData:
    with whole_parquet(file):
        return pq.read_metadata(file)


def _check(file: Path, schema: pa.Schema, row: ParquetRow, label: str | None) -> None:
    """Raise `UserError` unless `file` has the columns, and they are of types that can be read."""
    for column in (row.image, row.origin, label, row.caption):
        if column is not None and column not in schema.names:
            raise unknown(f"column in {file}", column, schema.names)
        if column is not None and schema.names.count(column) > 1:
            raise UserError(f"{file} has two columns “{column}”; rename one and write the file again.")
    for column in (row.image, row.origin):
        kind = None if column is None else _kind(schema.field(column).type)
        if kind is not None and not _is_bytes(kind):
            raise UserError(
                f"The column “{column}” of {file} holds {kind}, not encoded pictures; name another."
            )
    kind = None if label is None else _kind(schema.field(label).type)
    if kind is not None and not (pa.types.is_integer(kind) or _is_text(kind)):
        raise UserError(
            f"The column “{label}” of {file} holds {kind}, not texts or whole numbers; name another."
        )
    kind = None if row.caption is None else _kind(schema.field(row.caption).type)
    if kind is not None and not _is_text(kind):
        raise UserError(f"The column “{row.caption}” of {file} holds {kind}, not texts; name another.")


def _kind(kind: pa.DataType) -> pa.DataType:
    """The type of what a column of this type holds, also of Hugging Face's struct and of a dictionary."""
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return kind.field("bytes").type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def first_sight(path: Path) -> pa.Schema:
    """The schema of a Parquet file, an empty one if it cannot be read: opening the source says what is wrong."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return pa.schema([])


def texts(schema: pa.Schema) -> list[str]:
    """The columns of texts."""
    return [field.name for field in schema if _is_text(_kind(field.type))]


def may_hold_pictures(schema: pa.Schema) -> bool:
    """Whether there is a column of encoded files."""
    return any(_is_bytes(_kind(field.type)) for field in schema)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """The names of the classes in Hugging Face's features, or () if there are none or the metadata is damaged."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return ()
    for key in ("info", "features", label, "names"):
        found = found.get(key) if isinstance(found, dict) else None
    whole = isinstance(found, list) and all(isinstance(name, str) for name in found)
    return tuple(map(legible, found)) if whole else ()


def _splits(root: Path, files: list[Path]) -> dict[Path, Split | None]:
    """The official split of each file, if all file names (or their folders) begin with one, train among them."""
    found: dict[Path, Split] = {}
    for file in files:
        parts = (file.name,) if file == root else file.relative_to(root).parts
        words = (re.split(r"[-_.]", part)[0].lower() for part in parts)
        official = [OFFICIAL[word] for word in words if word in OFFICIAL]
        if official:
            found[file] = official[-1]
    whole = len(found) == len(files) and "train" in found.values()
    return {file: found[file] if whole else None for file in files}
