"""Tiny prepared pictures, written by hand as the preparation of data writes them: coloured shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.data.dataset import Dataset, file_hash, open_dataset
from components.families.family import NOTHING
from components.modalities.conditions import Conditions, save_conditions
from components.modalities.corruption import Corruption

SIDE = 12
COLOURS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "white": (235, 235, 235)}
SIZES = {"train": 360, "val": 12, "test": 120}
WORDS = 3


def drawn(colour: int, form: int, place: int, seed: int) -> Tensor:
    """A square, a bar or a cross in one of four corners, uint8 [3, SIDE, SIDE], with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 25, (3, SIDE, SIDE), generator=generator)
    mask = torch.zeros(6, 6, dtype=torch.bool)
    if form == 0:
        mask[:] = True
    elif form == 1:
        mask[2:4] = True
    else:
        mask[2:4] = mask[:, 2:4] = True
    where = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    top, left = 6 * (place // 2), 6 * (place % 2)
    where[top : top + 6, left : left + 6] = mask
    ink = torch.tensor(list(COLOURS.values())[colour])[:, None]
    picture[:, where] = ink - torch.randint(0, 25, (3, int(where.sum())), generator=generator)
    return picture.clamp(0, 255).to(torch.uint8)


def things(row: int) -> tuple[int, int, int]:
    """Colour, form and place of a row: all 48 combinations in turn."""
    return row % 4, row // 4 % 3, row // 12 % 4


def shapes(
    folder: Path,
    *,
    captions: bool = False,
    corruption: Corruption | None = None,
    sizes: Mapping[str, int] = SIZES,
) -> Dataset:
    """Shapes whose classes are their colours, in equal shares; a caption says colour, form and place.

    For two domains each source is the inverted picture of another row, with that row's class.
    """
    files, first = {}, 0
    unpaired = corruption is not None and corruption.kind == "unpaired"
    for split, rows in sizes.items():
        pictures = [drawn(*things(row), first + row) for row in range(rows)]
        columns: dict[str, Any] = {
            "id": [hashlib.sha256(_bytes(picture)).hexdigest() for picture in pictures],
            "image": [_bytes(picture) for picture in pictures],
            "label": [row % 4 for row in range(rows)],
        }
        if captions:
            columns["prompt"] = [_caption(row) for row in range(rows)]
        if unpaired:
            others = [(row + 5) % rows for row in range(rows)]
            columns["source"] = [_bytes(255 - pictures[other]) for other in others]
            columns["source_label"] = [other % 4 if other % 10 else -1 for other in others]
        files[f"{split}/0.parquet"] = _write(folder / split / "0.parquet", columns)
        first += rows
    conditions = Conditions(corruption=corruption)
    assets = {name: file_hash(folder / name) for name in save_conditions(folder, conditions)}
    shape = (3, SIDE, SIDE)
    content = {
        "name": folder.name,
        "modality": "image",
        "revision": hashlib.sha256(json.dumps([files, assets]).encode()).hexdigest(),
        "shape": shape,
        "classes": list(COLOURS),
        "licence": "CC0-1.0",
        "source": "made",
        "files": files,
        "assets": assets,
        **({"prompt": [WORDS + 1, 12]} if captions else {}),
        **({"source_shape": corruption.shape(shape)} if corruption else {}),
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return open_dataset(folder)


def _caption(row: int) -> bytes:
    """Three words of a vocabulary of twelve, and a place where there is none; little-endian int32."""
    colour, form, place = things(row)
    words = torch.tensor([1 + colour, 5 + form, 8 + place, NOTHING], dtype=torch.int32)
    return words.numpy().astype("<i4").tobytes()


def _bytes(picture: Tensor) -> bytes:
    return picture.numpy().tobytes()


def _write(path: Path, columns: Mapping[str, Sequence[Any]]) -> dict[str, object]:
    path.parent.mkdir(parents=True)
    shape = [3, SIDE, SIDE]
    about = {
        "modality": "image",
        "shape": shape,
        "classes": list(COLOURS),
        "prompt": WORDS + 1,
        "source_shape": shape,
    }
    kinds = {"image": pa.binary(3 * SIDE * SIDE), "source": pa.binary(3 * SIDE * SIDE)}
    kinds |= {
        "id": pa.string(),
        "prompt": pa.binary(4 * (WORDS + 1)),
        "label": pa.int32(),
        "source_label": pa.int32(),
    }
    arrow = pa.schema([pa.field(name, kinds[name]) for name in columns], {"genloom": json.dumps(about)})
    pq.write_table(pa.table(columns, schema=arrow), path)
    return {"rows": len(columns["id"]), "sha256": file_hash(path)}
