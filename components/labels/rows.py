"""Marks of Parquet files, in the metadata of their schema: what a job wrote, and the hash of all its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import UserError
from components.labels.statement import Statement, of_content

PREFIX = "genloom."
CONTENT = f"{PREFIX}content"
LARGEST = 2**30
"""Bytes of rows that are read to be checked."""
COLUMNS = ("content", "text")
"""What holds the rows of a job: files, or texts."""


class Content:
    """The sha256 of rows in order, each with its length, so that none can be moved into the next."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"rows ")

    def add(self, rows: Iterable[bytes | str | None]) -> None:
        """Take more rows; None stands for what was withheld."""
        for row in rows:
            value = row.encode("utf-8", "surrogatepass") if isinstance(row, str) else row
            self._hash.update(b"- " if value is None else b"%d %b" % (len(value), value))

    @property
    def hex(self) -> str:
        """The hash of what was taken so far."""
        return self._hash.hexdigest()


def metadata(field: Mapping[str, object]) -> dict[str, str]:
    """What a statement adds to the metadata of a schema that names model, version and digest already."""
    wanted = ("generator", "producer", "digital_source_type")
    return {name: str(field[name]) for name in wanted if name in field}


def read(file: bytes) -> tuple[Statement | None, str]:
    """The statement of a Parquet file, and the hash of its rows. Raises `UserError` for a damaged one."""
    try:
        table = pq.ParquetFile(pa.BufferReader(file))
        size = sum(table.metadata.row_group(place).total_byte_size for place in range(table.num_row_groups))
        if size > LARGEST:
            raise UserError(f"The Parquet file has {size / 2**30:.1f} GiB of rows, too much to be checked.")
        said = {key.decode(): value.decode() for key, value in (table.metadata.metadata or {}).items()}
        column = next((name for name in COLUMNS if name in table.schema_arrow.names), None)
        content = Content()
        for batch in table.iter_batches(columns=[column]) if column else ():
            content.add(batch.column(0).to_pylist())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError("The Parquet file is damaged or not whole; give the whole file.") from error
    own = {key.removeprefix(PREFIX): value for key, value in said.items() if key.startswith(PREFIX)}
    number = own.get("version", "")
    if "digital_source_type" not in own or not number.isdecimal():
        return None, content.hex
    return of_content({**own, "product": own.get("model"), "version": int(number)}), content.hex
