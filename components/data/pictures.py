"""Pictures from a source to Parquet: decoded, each content once, split by hash, with a sheet to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from components.data.conditioned import Beside, beside, revision
from components.data.dataset import Split, file_hash
from components.data.example import Progress, Source
from components.data.reading import check_splits, count, first_rows, read
from components.data.report import Tally, Written
from components.data.sources import open_source
from components.data.spool import Column, Spool, write_columns
from components.errors import UserError
from components.image_rows import ImageRow
from components.modalities.image import Image, grid, schema
from components.project import Project


def write_pictures(project: Project, name: str, row: ImageRow, folder: Path, progress: Progress) -> Written:
    """Read the pictures of `row` and write the splits and `preview.png` into `folder`; raises `UserError`."""
    source = open_source(project, row, progress)
    check_shape(name, row, source.shape)
    target = source.shape[0] if source.paired else None
    with Spool(folder / "spool", spooled(source), target) as spool:
        tally = read(name, source, spool, progress)
        splits = spool.splits(row.split)
        check_splits(name, row.split, splits, tally, spool.noun)
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
        "splits": {split: count(draft.spool, keys, classes) for split, keys in splits.items()},
    }
    (folder / "preview.png").write_bytes(preview(folder, manifest["shape"]))
    return Written(manifest, report)


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
