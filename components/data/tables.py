"""Tables of series out of files: CSV, TSV and Parquet, packed by gzip or not, and what statsmodels brings."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.example import Progress, legible
from components.data.fetch import fetch
from components.data.sources import source_path
from components.data.texts import suffix, text_files
from components.errors import UserError, unknown
from components.modalities.tables import Table, Times, Values, counts_rows, read_csv, regular
from components.project import Project
from components.series_rows import SeriesFilesRow, SeriesRow, StatsmodelsRow

WRITTEN = frozenset({".csv", ".tsv"})
PLAIN = ".txt"
"""What may hold numbers as well as text, so that it is looked into."""
LOOKED = 64 * 1024


def open_tables(project: Project, row: SeriesRow, progress: Progress) -> list[tuple[str, Table]]:
    """The tables of `row` by name, with even steps; raises `UserError` for what cannot be read."""
    if isinstance(row, StatsmodelsRow):
        return [(row.series, regular(_bundled(row.series), row.series))]
    assert isinstance(row, SeriesFilesRow)
    found = []
    for name, path in _files(project, row, progress):
        table = regular(read_table(path, name, row.time), name)
        found.append((name, table.chosen(row.columns, name) if row.columns else table))
    return found


def read_table(path: Path, name: str, time: str | None = None) -> Table:
    """The table in a file that is called `name`. Raises `UserError`."""
    with path.open("rb") as stream:
        magic = stream.read(4)
    if magic == b"PAR1":
        return _parquet(path, name, time)
    try:
        content = gzip.decompress(path.read_bytes()) if magic[:2] == b"\x1f\x8b" else path.read_bytes()
        return read_csv(content.decode("utf-8-sig"), name, time)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is no text in UTF-8 ({error}); save it as CSV in UTF-8.") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name} is no whole gzip file ({error}); copy it again.") from error


def table_files(root: Path) -> list[str]:
    """The files below `root` that hold series, by relative path, sorted; plain text is none in a folder."""
    return [
        name
        for name in text_files(root)
        if suffix(name) in WRITTEN or (suffix(name) != PLAIN and is_numeric(root / name))
    ]


def is_numeric(path: Path) -> bool:
    """Whether a file is Parquet of numbers and perhaps a column of times, or plain text of rows of numbers."""
    kind = suffix(path.name)
    if kind == ".parquet":
        try:
            fields = list(pq.read_schema(path))
        except (pa.ArrowException, OSError):
            return False
        times = [field for field in fields if pa.types.is_temporal(field.type)]
        numbers = [field for field in fields if _numeric(field.type)]
        return bool(numbers) and len(times) < 2 and len(numbers) + len(times) == len(fields)
    return kind == PLAIN and _rows_of_numbers(path)


def _rows_of_numbers(path: Path) -> bool:
    """Whether the first lines of a text are rows of as many numbers each."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
            lines = stream.read(LOOKED).decode("utf-8", "ignore").splitlines()[:-1][:50]
        table = read_csv("\n".join(lines), path.name)
    except (UserError, OSError, EOFError, zlib.error):
        return False
    return len(lines) >= 8 and not table.ignored


def _files(project: Project, row: SeriesFilesRow, progress: Progress) -> Iterator[tuple[str, Path]]:
    """The files of a row with the names by which people know them."""
    if row.path is None:
        remote = row.files["all"]
        yield remote.url.partition("?")[0].rpartition("/")[2], fetch(remote, project.settings, progress)
        return
    root = source_path(project, row.path)
    if root.is_file():
        yield legible(root.name), root
        return
    names = table_files(root)
    if not names:
        raise UserError(f"The folder {root} holds no series (CSV, TSV, Parquet of numbers); put some there.")
    yield from ((legible(name), root / name) for name in names)


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _parquet(path: Path, name: str, time: str | None) -> Table:
    """The table of a Parquet file: columns of numbers are channels, the first of times its time."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name} is no whole Parquet file ({error}); write it again.") from error
    if time is not None and time not in table.column_names:
        raise unknown(f"column in {name}", time, table.column_names)
    values: dict[str, Values] = {}
    times: Times | None = None
    ignored = []
    for field in table.schema:
        column = table.column(field.name)
        if pa.types.is_temporal(field.type) and time in (None, field.name) and times is None:
            times = column.cast(pa.timestamp("s"), safe=False).to_numpy().astype("datetime64[s]")
        elif _numeric(field.type) and field.name != time:
            found = column.cast(pa.float64()).to_numpy().astype(np.float64)
            found = np.where(np.isfinite(found), found, math.nan)
            (
                ignored.append(field.name)
                if counts_rows(field.name, found)
                else values.update({field.name: found})
            )
        else:
            ignored.append(field.name)
    if not values or table.num_rows == 0:
        raise UserError(f"{name} holds no column of numbers; a series is one number or more a time step.")
    if time is not None and times is None:
        raise UserError(
            f"The column “{time}” of {name} holds no times; write it as timestamps, or leave time out."
        )
    if times is not None and bool(np.isnat(times).any()):
        raise UserError(f"{name} has rows without a time; remove them, or fill the times in.")
    return Table(tuple(values), np.stack(list(values.values()), axis=1), times, tuple(ignored))


def _bundled(series: str) -> Table:
    """One of statsmodels' own series."""
    import importlib

    data = importlib.import_module(f"statsmodels.datasets.{series}").load_pandas().data
    if series == "elnino":
        return Table(("temperature",), data.iloc[:, 1:].to_numpy(np.float64).reshape(-1, 1), _months(data))
    if series == "sunspots":
        return Table(("sunspots",), data[["SUNACTIVITY"]].to_numpy(np.float64))
    return replace(
        Table(("co2",), data[["co2"]].to_numpy(np.float64)),
        times=data.index.to_numpy().astype("datetime64[s]"),
    )


def _months(data: object) -> Times:
    """The months of the table of sea surface temperatures, which has a row a year."""
    first = int(data["YEAR"].iloc[0])  # type: ignore[index]
    count = 12 * len(data)  # type: ignore[arg-type]
    return (np.datetime64(f"{first}-01") + np.arange(count)).astype("datetime64[s]")
