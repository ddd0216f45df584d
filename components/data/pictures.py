"""Pictures from a source to Parquet: decoded, each content once, split by hash, with a sheet to look at."""

from __future__ import annotations

import math
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL.Image import DecompressionBombWarning

from components.data.conditioned import Beside, beside, revision
from components.data.dataset import Split, file_hash
from components.data.example import Dropped, Entry, Pixels, Progress, Source
from components.data.report import Tally, Written
from components.data.sources import open_source
from components.data.spool import Column, Spool, parts, write_columns
from components.errors import UserError
from components.image_rows import ImageRow
from components.modalities.decoding import NotAPicture
from components.modalities.image import Image, grid, schema
from components.project import Project

WINDOW_BYTES = 64 * 2**20
"""Bytes of decoded pictures that wait in memory to be written."""


def write_pictures(project: Project, name: str, row: ImageRow, folder: Path, progress: Progress) -> Written:
    """Read the pictures of `row` and write the splits and `preview.png` into `folder`; raises `UserError`."""
    source = open_source(project, row, progress)
    check_shape(name, row, source.shape)
    target = source.shape[0] if source.paired else None
    with Spool(folder / "spool", spooled(source), target) as spool:
        tally = read(name, source, spool, progress)
        splits = spool.splits(row.split)
        check_splits(name, row, splits, tally)
        draft = Draft(
            source.shape, spool, splits, list(source.classes) or spool.classes(), beside(row, spool, splits)
        )
        return write(folder, name, row, draft, tally, source.ignored)


def check_shape(name: str, row: ImageRow, shape: tuple[int, int, int]) -> None:
    """Raise `UserError` for what the row asks of pictures [C, H, W] and they cannot be."""
    try:
        row.check_shape(*shape)
    except ValueError as error:
        raise UserError(f"In params.yaml, datasets.{name}: {error}.") from error


def spooled(source: Source) -> tuple[int, int, int]:
    """The shape of what is decoded of an entry: of pairs, both pictures above each other."""
    channels, height, width = source.shape
    return (2 * channels if source.paired else channels), height, width


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
        progress(f"{name} (pictures)", tally.read, source.total)
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
        except NotAPicture as reason:
            loaded.append(Dropped(entry.name, str(reason)))
    return loaded


@dataclass(frozen=True)
class Draft:
    """What is to be written: pictures of one `shape` [C, H, W] in splits, and what stands beside them."""

    shape: tuple[int, int, int]
    spool: Spool
    splits: Mapping[Split, Sequence[str]]
    classes: Sequence[str]
    beside: Beside

    @property
    def columns(self) -> dict[str, Column]:
        """What makes the columns of the rows, but for their ids."""
        spool, classes, channels = self.spool, self.classes, slice(self.shape[0])
        found: dict[str, Column] = {"image": lambda keys: spool.images(keys, channels)}
        if classes:
            found["label"] = lambda keys: spool.labels(keys, classes)
        return {**found, **self.beside.columns}


def write(
    folder: Path, name: str, row: ImageRow, draft: Draft, tally: Tally, ignored: Sequence[str]
) -> Written:
    """Write the splits, what stands beside them, and the preview."""
    found, splits, classes = draft.beside, draft.splits, draft.classes
    about = {"name": name, "licence": row.licence, "source": row.source}
    length = None if found.prompts is None else found.prompts.length
    arrow = schema(draft.shape, classes, about, found.source, length, "source_label" in found.columns)
    size = math.prod(draft.shape) + math.prod(found.source or (0,)) + 4 * (length or 0)
    files = {}
    for split, keys in splits.items():
        for path, rows in write_columns(folder / split, keys, arrow, draft.columns, size):
            files[f"{split}/{path.name}"] = {"rows": rows, "sha256": file_hash(path)}
    assets = found.save(folder)
    manifest = {
        **about,
        "modality": row.modality,
        "revision": revision(draft.spool.revision(splits, classes), found, assets),
        **found.manifest(draft.shape),
        "classes": classes,
        "files": files,
        **({"assets": assets} if assets else {}),
        **({"details": found.details} if found.details else {}),
    }
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": sum(len(keys) for keys in splits.values()),
        "dropped": tally.dropped(),
        "ignored_columns": list(ignored),
        **found.facts,
        "splits": {split: _count(draft.spool, keys, classes) for split, keys in splits.items()},
    }
    (folder / "preview.png").write_bytes(preview(folder, manifest["shape"]))
    return Written(manifest, report)


def check_splits(name: str, row: ImageRow, splits: Mapping[Split, Sequence[str]], tally: Tally) -> None:
    """Raise `UserError` with the arithmetic unless every split has a row."""
    if all(splits.values()):
        return
    left_out = tally.reasons()
    kept = sum(len(keys) for keys in splits.values())
    if kept == 0:
        raise UserError(
            f"The dataset “{name}” has no picture that can be read: {tally.read} found, {tally.read} left out"
            f"{left_out}; put pictures where its row points."
        )
    shares = ", ".join(f"{len(keys)} to {split}" for split, keys in splits.items())
    raise UserError(
        f"The dataset “{name}” has too few pictures: {tally.read} found, {tally.read - kept} left out{left_out}, "
        f"{kept} kept, of which {shares}, but each split needs at least one; add pictures, or raise "
        f"split.val ({row.split.val:g}) or split.test ({row.split.test:g}) of its row in params.yaml."
    )


def _count(spool: Spool, keys: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    counts = Counter(spool.label(key) for key in keys)
    return {"rows": len(keys), "classes": {name: counts[name] for name in classes}}


def preview(folder: Path, shape: Sequence[int]) -> bytes:
    """A sheet of the first training pictures, each behind its source where it has one; about 1,024 pixels a side."""
    most = min(100, max(2, 1024 // max(shape[1:])) ** 2)
    tensors = Image(folder)
    batch = tensors.batch(tensors.columns(first_rows(folder / "train" / "00000.parquet", most)))
    if batch.source is None:
        return grid(batch.data)
    channels = batch.data.shape[1]
    pairs = torch.stack([batch.source[:, :channels].expand_as(batch.data), batch.data], dim=1)
    some = pairs.flatten(0, 1)[:most]
    return grid(some, columns=2 * max(1, round(len(some) ** 0.5 / 2)))


def first_rows(path: Path, most: int) -> pa.Table:
    """The first rows of a Parquet file, at most `most`."""
    with pq.ParquetFile(path) as file:
        return pa.Table.from_batches([next(file.iter_batches(most))])
