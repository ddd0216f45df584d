"""What pictures and recordings have in common while they are read: decoded by threads, counted, split, checked."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import DecompressionBombWarning

from components.data.dataset import Split
from components.data.example import Dropped, Entry, NotARecording, Pixels, Progress, Source
from components.data.report import Tally
from components.data.spool import Spool, parts
from components.errors import UserError
from components.modalities.decoding import NotAPicture
from components.row import Split as Shares

WINDOW_BYTES = 64 * 2**20
"""Bytes of what is decoded that wait in memory to be written."""


def read(name: str, source: Source, spool: Spool, progress: Progress) -> Tally:
    """Decode every entry into the spool, except what cannot be read and what is there already."""
    tally = Tally()
    for found in _decoded(source):
        tally.read += 1
        if isinstance(found, Dropped):
            tally.drop(found.name, found.reason)
        else:
            entry, image = found
            fault = spool.add(image, entry.label, entry.split, entry.caption)
            if fault:
                tally.drop(entry.name, fault)
        progress(f"{name} ({spool.noun}s)", tally.read, source.total)
    return tally


def _decoded(source: Source) -> Iterator[tuple[Entry, Pixels] | Dropped]:
    """The entries in order, decoded by threads, a bounded number ahead."""
    workers = os.cpu_count() or 1
    ahead = max(workers, min(1024, WINDOW_BYTES // math.prod(source.shape)))
    entries = iter(source.entries)
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore", DecompressionBombWarning)  # a large picture, not yet one too large
        while some := list(islice(entries, ahead)):
            for part in pool.map(_load, parts(some, -(-ahead // (16 * workers)))):
                yield from part


def _load(entries: Sequence[Entry | Dropped]) -> list[tuple[Entry, Pixels] | Dropped]:
    loaded: list[tuple[Entry, Pixels] | Dropped] = []
    for entry in entries:
        try:
            loaded.append(entry if isinstance(entry, Dropped) else (entry, entry.load()))
        except (NotAPicture, NotARecording) as reason:
            loaded.append(Dropped(entry.name, str(reason)))
    return loaded


def check_splits(
    name: str, shares: Shares, splits: Mapping[Split, Sequence[str]], tally: Tally, noun: str
) -> None:
    """Raise `UserError` with the arithmetic unless every split has a row."""
    if all(splits.values()):
        return
    left_out = tally.reasons()
    kept = sum(len(keys) for keys in splits.values())
    if kept == 0:
        raise UserError(
            f"The dataset “{name}” has no {noun} that can be read: {tally.read} found, {tally.read} left out"
            f"{left_out}; put {noun}s where its row points."
        )
    each = ", ".join(f"{len(keys)} to {split}" for split, keys in splits.items())
    raise UserError(
        f"The dataset “{name}” has too few {noun}s: {tally.read} found, {tally.read - kept} left out{left_out}, "
        f"{kept} kept, of which {each}, but each split needs at least one; add {noun}s, or raise "
        f"split.val ({shares.val:g}) or split.test ({shares.test:g}) of its row in params.yaml."
    )


def count(spool: Spool, keys: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """The rows of a split and of each class in it."""
    counts = Counter(spool.label(key) for key in keys)
    return {"rows": len(keys), "classes": {name: counts[name] for name in classes}}


def first_rows(path: Path, most: int) -> pa.Table:
    """The first rows of a Parquet file, at most `most`."""
    with pq.ParquetFile(path) as file:
        return pa.Table.from_batches([next(file.iter_batches(most))])
