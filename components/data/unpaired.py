"""Two datasets as two domains: pictures of the target, each beside one of the origin that has nothing to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image as Pillow

from components.data.conditioned import Beside, conditions
from components.data.dataset import SPLITS, Split
from components.data.example import Dropped, Entry, Pixels, Progress, Source
from components.data.images import Fit, fitted, stacked
from components.data.pictures import Draft, check_shape, write
from components.data.reading import check_splits, read
from components.data.report import Tally, Written
from components.data.sources import open_source
from components.data.spool import Spool
from components.image_rows import ImageRow, PicturesRow, UnpairedRow
from components.project import Project


def write_unpaired(
    project: Project, name: str, row: UnpairedRow, folder: Path, progress: Progress
) -> Written:
    """Read both domains and write the splits, one row a picture of the target, and `preview.png` into `folder`.

    Raises `UserError` for a domain of which a split is empty.
    """
    first = _opened(project, row.target, row, None, progress)
    shape = (row.channels or first.shape[0], *(row.size or first.shape[1:]))
    check_shape(name, row, shape)
    target = _opened(project, row.target, row, shape, progress)
    origin = _opened(project, row.origin, row, shape, progress)
    with Spool(folder / "spool", shape) as wanted, Spool(folder / "spool-origin", shape) as given:
        tally, splits = _read(row.target, row, target, wanted, progress)
        other, others = _read(row.origin, row, origin, given, progress)
        domain = _Domain(row.origin, given, others, other, list(origin.classes) or given.classes())
        classes = list(target.classes) or wanted.classes()
        draft = Draft(shape, wanted, splits, classes, _beside(row, domain, splits, classes))
        return write(folder, name, row, draft, tally, ())


@dataclass(frozen=True)
class _Domain:
    """The pictures that others are made of."""

    name: str
    spool: Spool
    splits: Mapping[Split, Sequence[str]]
    tally: Tally
    classes: Sequence[str]


def _opened(
    project: Project, name: str, row: UnpairedRow, shape: tuple[int, int, int] | None, progress: Progress
) -> Source:
    """The pictures of a domain, brought to `shape` [C, H, W]; as they are without it."""
    domain = project.dataset(name)
    assert isinstance(domain, ImageRow)
    if shape is not None and isinstance(
        domain, PicturesRow
    ):  # decoded at that size, not enlarged from its own
        changed = {"channels": shape[0], "size": shape[1:], "fit": row.fit, "caption": None}
        domain = domain.model_copy(update=changed)
    source = open_source(project, domain, progress)
    if shape is None or source.shape == shape:
        return source
    entries = (_brought(entry, shape, row.fit) for entry in source.entries)
    return replace(source, shape=shape, entries=entries)


def _brought(entry: Entry | Dropped, shape: tuple[int, int, int], fit: Fit) -> Entry | Dropped:
    return entry if isinstance(entry, Dropped) else replace(entry, load=partial(_resized, entry, shape, fit))


def _resized(entry: Entry, shape: tuple[int, int, int], fit: Fit) -> Pixels:
    """The picture of `entry` at `shape`; raises `NotAPicture`."""
    pixels = entry.load()
    image = Pillow.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    return stacked(fitted(image.convert("L" if shape[0] == 1 else "RGB"), shape[1:], fit))


def _read(
    name: str, row: UnpairedRow, source: Source, spool: Spool, progress: Progress
) -> tuple[Tally, dict[Split, list[str]]]:
    tally = read(name, source, spool, progress)
    splits = spool.splits(row.split)
    check_splits(name, row.split, splits, tally, spool.noun)
    return tally, splits


def _beside(
    row: UnpairedRow, origin: _Domain, splits: Mapping[Split, Sequence[str]], classes: Sequence[str]
) -> Beside:
    """Each picture of the target with one of the origin, which are taken in turn."""
    partners = {
        key: origin.splits[split][place % len(origin.splits[split])]
        for split in SPLITS
        for place, key in enumerate(splits[split])
    }

    def pictures(keys: Sequence[str]) -> pa.Array:
        return origin.spool.images([partners[key] for key in keys])

    def labels(keys: Sequence[str]) -> pa.Array:
        return origin.spool.labels([partners[key] for key in keys], classes)

    shared = set(classes) & set(origin.classes)
    return Beside(
        conditions=conditions(row),
        columns={"source": pictures, **({"source_label": labels} if shared else {})},
        source=origin.spool.shape,
        rows=[[key, partner, origin.spool.label(partner)] for key, partner in partners.items()],
        facts={"origin": _facts(origin, len(set(partners.values())))},
        details={"target": row.target, "origin": row.origin, "origin_classes": list(origin.classes)},
    )


def _facts(origin: _Domain, used: int) -> dict[str, object]:
    return {
        "dataset": origin.name,
        "read": origin.tally.read,
        "dropped": origin.tally.dropped(),
        "used": used,
        "splits": {split: len(keys) for split, keys in origin.splits.items()},
    }
