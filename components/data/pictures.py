"""Pictures from a source to Parquet: decoded, each content once, split by hash, with a sheet to look at."""

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

import torch
from PIL.Image import DecompressionBombWarning

from components.data.dataset import Split, file_hash
from components.data.example import Dropped, Entry, Pixels, Progress, Source
from components.data.report import Tally, Written
from components.data.sources import open_source
from components.data.spool import Spool, parts
from components.errors import UserError
from components.image_rows import ImageRow
from components.modalities.decoding import NotAPicture
from components.modalities.image import grid, schema
from components.project import Project

WINDOW_BYTES = 64 * 2**20
"""Bytes of decoded pictures that wait in memory to be written."""


def write_pictures(project: Project, name: str, row: ImageRow, folder: Path, progress: Progress) -> Written:
    """Read the pictures of `row` and write the splits and `preview.png` into `folder`; raises `UserError`."""
    source = open_source(project, row, progress)
    with Spool(folder / "spool", source.shape) as spool:
        tally = _read(name, source, spool, progress)
        return _write(folder, name, row, source, spool, tally)


def _read(name: str, source: Source, spool: Spool, progress: Progress) -> Tally:
    """Decode every entry into the spool, except what cannot be read and what is there already."""
    tally = Tally()
    for found in _decoded(source):
        tally.read += 1
        if isinstance(found, Dropped):
            tally.drop(found.name, found.reason)
        else:
            entry, image = found
            fault = spool.add(image, entry.label, entry.split)
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


def _write(folder: Path, name: str, row: ImageRow, source: Source, spool: Spool, tally: Tally) -> Written:
    """Write the splits and the preview."""
    splits = spool.splits(row.split)
    _check_splits(name, row, splits, tally)
    classes = list(source.classes) or spool.classes()
    about = {"name": name, "licence": row.licence, "source": row.source}
    arrow = schema(source.shape, classes, about)
    files = {}
    for split, keys in splits.items():
        for path, rows in spool.write(folder / split, keys, arrow, classes):
            files[f"{split}/{path.name}"] = {"rows": rows, "sha256": file_hash(path)}
    manifest = {
        **about,
        "modality": row.modality,
        "revision": spool.revision(splits, classes),
        "shape": list(source.shape),
        "classes": classes,
        "files": files,
    }
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": sum(len(keys) for keys in splits.values()),
        "dropped": tally.dropped(),
        "ignored_columns": list(source.ignored),
        "splits": {split: _count(spool, keys, classes) for split, keys in splits.items()},
    }
    some = spool.pictures(splits["train"][: _preview_size(source.shape)])
    (folder / "preview.png").write_bytes(grid(torch.from_numpy(some).float() / 127.5 - 1))
    return Written(manifest, report)


def _check_splits(name: str, row: ImageRow, splits: Mapping[Split, Sequence[str]], tally: Tally) -> None:
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


def _preview_size(shape: Sequence[int]) -> int:
    """As many pictures as make a sheet of at most about 1,024 pixels a side, but 4 at least, 100 at most."""
    return min(100, max(2, 1024 // max(shape[1:])) ** 2)
