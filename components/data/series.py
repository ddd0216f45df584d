"""Series from a source to Parquet: cut in order of time, gaps filled or left out, a tokenizer fitted, a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.dataset import SPLITS, Split, file_hash
from components.data.example import Progress
from components.data.report import Tally, Written
from components.data.tables import open_tables
from components.errors import UserError
from components.modalities.binning import FILE, HEAD, Binning, Whole, fit
from components.modalities.chart import BLUE, GREY, ORANGE, Line, Panel, chart
from components.modalities.series import schema
from components.modalities.tables import Table, Values, filled
from components.project import Project
from components.series_rows import SeriesRow

GROUP = 1024
"""Rows of a row group."""
FITTED = 20_000
"""The most windows that the tokenizer is fitted to."""
ROWS = 1024
"""The training rows that are made at least where there are as many windows."""
PANELS = 12


@dataclass(frozen=True)
class Channel:
    """One series: its name and values [T], NaN in gaps that are too long to fill, and where val and test begin."""

    name: str
    values: Values
    cuts: tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """A row: `values` of a channel that begin at the step `start`."""

    channel: int
    start: int
    values: Values

    @property
    def key(self) -> str:
        """The sha256 of channel, place and content."""
        digest = hashlib.sha256(f"{self.channel}:{self.start}:".encode())
        digest.update(self.values.tobytes())
        return digest.hexdigest()


@dataclass
class Gaps:
    """What was missing of all series: values, rows that had to be put in, values interpolated, windows left out."""

    missing: int = 0
    inserted: int = 0
    filled: int = 0
    left_out: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    sorted_by_time: list[str] = field(default_factory=list)


def write_series(project: Project, name: str, row: SeriesRow, folder: Path, progress: Progress) -> Written:
    """Read the series of `row` and write the splits, the tokenizer and `preview.png` into `folder`.

    Raises `UserError` for tables that cannot be read, or are too short.
    """
    tables = open_tables(project, row, progress)
    tally, gaps = Tally(), Gaps()
    channels = list(_channels(tables, row, tally, gaps))
    pieces = {split: list(_pieces(channels, row, split, gaps)) for split in SPLITS}
    _check(name, row, channels, pieces, tally)
    windows, owners = _fitting(pieces["train"], row)
    names = [channel.name for channel in channels]
    binning = fit(windows, owners, names, row.context, row.horizon, row.season, row.scaling, row.bins)
    binning.save(folder)
    (folder / "preview.png").write_bytes(preview(channels))
    progress(f"{name} (series)", len(channels), len(channels))
    return _write(folder, name, row, binning, pieces, tally, gaps, tables)


def _channels(
    tables: Sequence[tuple[str, Table]], row: SeriesRow, tally: Tally, gaps: Gaps
) -> Iterator[Channel]:
    """The series of all tables whose three parts have a window each."""
    for where, table in tables:
        if table.ordered:
            gaps.sorted_by_time.append(where)
        gaps.inserted += table.inserted
        for place, column in enumerate(table.names):
            tally.read += 1
            name = column if len(tables) == 1 else f"{where.rpartition('/')[2].split('.')[0]}:{column}"
            values = table.values[:, place][: row.limit]
            gaps.missing += int(np.isnan(values).sum())
            values, count = filled(values, row.fill)
            gaps.filled += count
            reason = unfit(values, row)
            if reason:
                tally.drop(name, reason)
                continue
            yield Channel(name, values, cuts_of(len(values), row))


def cuts_of(steps: int, row: SeriesRow) -> tuple[int, int]:
    """Where val and test begin."""
    return int(steps * (1 - row.split.val - row.split.test)), int(steps * (1 - row.split.test))


def unfit(values: Values, row: SeriesRow) -> str | None:
    """Why a series is left out, if it is."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return "no values"
    if bool((known == known[0]).all()):
        return "the same value everywhere"
    first, second = cuts_of(len(values), row)
    if first < row.window or second - first < row.horizon or len(values) - second < row.horizon:
        return f"too short ({len(values)} steps)"
    return None


def _pieces(channels: Sequence[Channel], row: SeriesRow, split: Split, gaps: Gaps) -> Iterator[Piece]:
    """The rows of a split: for training longer pieces that are cut by chance; else windows, a horizon apart.

    All that a held-out window asks for lies in its split; its context may lie before it.
    """
    if split == "train":
        whole = sum(channel.cuts[0] - row.window + 1 for channel in channels)
        begins = max(1, min(row.window, whole // ROWS))
        for number, channel in enumerate(channels):
            for piece in _training(number, channel, row.window, begins):
                whole -= len(piece.values) - row.window + 1
                yield piece
        gaps.left_out[split] = whole
        return
    for number, channel in enumerate(channels):
        first, last = channel.cuts if split == "val" else (channel.cuts[1], len(channel.values))
        for begin in range(first, last - row.horizon + 1, row.horizon):
            start = begin - row.context
            values = channel.values[max(0, start) : begin + row.horizon]
            if start < 0 or bool(np.isnan(values).any()):
                gaps.left_out[split] += 1
            else:
                yield Piece(number, start, values)


def _training(number: int, channel: Channel, width: int, begins: int) -> Iterator[Piece]:
    """Pieces without gaps in which up to `begins` windows begin; each window lies in just one of them."""
    values = channel.values[: channel.cuts[0]]
    edges = np.flatnonzero(np.diff(np.concatenate([[True], np.isnan(values), [True]]).astype(np.int8)))
    for first, last in edges.reshape(-1, 2).tolist():
        for begin in range(first, last - width + 1, begins):
            yield Piece(number, begin, values[begin : min(last, begin + width + begins - 1)])


def _check(
    name: str,
    row: SeriesRow,
    channels: Sequence[Channel],
    pieces: Mapping[Split, Sequence[Piece]],
    tally: Tally,
) -> None:
    """Raise `UserError` with the arithmetic unless every split has a window."""
    if channels and all(pieces[split] for split in SPLITS):
        return
    shares = (
        f"{1 - row.split.val - row.split.test:.3g} train, {row.split.val:g} val and {row.split.test:g} test"
    )
    left_out = tally.reasons()
    counts = ", ".join(f"{len(pieces[split])} for {split}" for split in SPLITS)
    raise UserError(
        f"The dataset “{name}” is too short: of {tally.read} series {len(channels)} fit{left_out}, with windows "
        f"{counts}; each share ({shares}) needs its windows of {row.context} + {row.horizon} steps: add data, or lower "
        "context or horizon of its row in params.yaml."
    )


def _fitting(pieces: Sequence[Piece], row: SeriesRow) -> tuple[Values, Whole]:
    """Training windows [N, context + horizon] evenly over all there are, at most about `FITTED`, and whose they are."""
    total = sum(len(piece.values) - row.window + 1 for piece in pieces)
    stride = max(1, total // FITTED)
    windows, owners = [], []
    for piece in pieces:
        views = np.lib.stride_tricks.sliding_window_view(piece.values, row.window)[::stride]
        windows.append(views)
        owners += [piece.channel] * len(views)
    return np.concatenate(windows), np.array(owners, dtype=np.int64)


def _write(
    folder: Path,
    name: str,
    row: SeriesRow,
    binning: Binning,
    pieces: Mapping[Split, Sequence[Piece]],
    tally: Tally,
    gaps: Gaps,
    tables: Sequence[tuple[str, Table]],
) -> Written:
    """Write the rows, and say what was made."""
    about = {"name": name, "licence": row.licence, "source": row.source}
    shape = {
        "shape": [binning.length],
        "vocabulary": binning.vocabulary,
        "prompt": [binning.length, binning.vocabulary],
    }
    longest = max(len(piece.values) for found in pieces.values() for piece in found)
    arrow = schema({**about, **shape, "longest": longest})
    files = {}
    for split, found in pieces.items():
        path = folder / split / "00000.parquet"
        path.parent.mkdir()
        pq.write_table(_table(found, arrow), path, row_group_size=GROUP, compression="zstd")
        files[f"{split}/{path.name}"] = {"rows": len(found), "sha256": file_hash(path)}
    assets = {FILE: file_hash(folder / FILE)}
    manifest = {
        **about,
        "modality": row.modality,
        "revision": _revision(shape, assets, pieces),
        **shape,
        "classes": [],
        "files": files,
        "assets": assets,
        "details": {
            "context": row.context,
            "horizon": row.horizon,
            "season": row.season,
            "scaling": row.scaling,
        },
    }
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": tally.read - tally.counts.total(),
        "dropped": tally.dropped(),
        "ignored_columns": sorted({column for _, table in tables for column in table.ignored}),
        "gaps": {
            "missing": gaps.missing,
            "rows_inserted": gaps.inserted,
            "interpolated": gaps.filled,
            "windows_left_out": gaps.left_out,
            "sorted_by_time": gaps.sorted_by_time,
        },
        "splits": {split: _count(found, row) for split, found in pieces.items()},
    }
    return Written(manifest, report)


def _count(pieces: Sequence[Piece], row: SeriesRow) -> dict[str, int]:
    """What the report says of a split; of training, windows are all that a row may be cut to."""
    return {"rows": len(pieces), "windows": sum(len(piece.values) - row.window + 1 for piece in pieces)}


def _table(pieces: Sequence[Piece], arrow: pa.Schema) -> pa.Table:
    columns: list[Any] = [
        pa.array([piece.key for piece in pieces], pa.string()),
        pa.array([piece.values for piece in pieces], pa.list_(pa.float64())),
        pa.array([len(piece.values) for piece in pieces], pa.int64()),
        pa.array([piece.channel for piece in pieces], pa.int64()),
        pa.array([piece.start for piece in pieces], pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=arrow)


def _revision(
    shape: Mapping[str, Any], assets: Mapping[str, str], pieces: Mapping[Split, Sequence[Piece]]
) -> str:
    """The sha256 of what the dataset is: the shape, the tokenizer, and the rows of each split in order."""
    digest = hashlib.sha256(json.dumps(["series", HEAD, dict(shape), dict(assets)]).encode())
    for split, found in pieces.items():
        for piece in found:
            digest.update(json.dumps([split, piece.key]).encode())
    return digest.hexdigest()


def preview(channels: Sequence[Channel]) -> bytes:
    """The first series whole: the training part in blue, val in grey, test in orange."""
    panels = []
    for channel in channels[:PANELS]:
        first, second = channel.cuts
        parts = ((0, first, BLUE), (first, second, GREY), (second, len(channel.values), ORANGE))
        lines = [Line(channel.values[begin:end], begin, colour) for begin, end, colour in parts]
        panels.append(Panel(channel.name, lines, marks=[first, second]))
    return chart(panels, columns=1 if len(panels) < 3 else 2, size=(640, 170))
