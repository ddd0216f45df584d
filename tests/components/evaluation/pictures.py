"""Tiny prepared pictures, written by hand as the preparation of data writes them: coloured shapes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from components.data.dataset import Dataset, file_hash, open_dataset
from components.modalities.image import schema

SIDE = 12
COLOURS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "white": (235, 235, 235)}
FORMS = ("square", "bar", "cross")
SIZES = {"train": 360, "val": 12, "test": 120}


def drawn(colour: int, form: int, seed: int) -> Tensor:
    """One shape at a place that the seed decides, uint8 [3, SIDE, SIDE], with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.randint(0, 25, (3, SIDE, SIDE), generator=generator)
    top, left = torch.randint(0, SIDE - 5, (2,), generator=generator).tolist()
    mask = torch.zeros(6, 6, dtype=torch.bool)
    if form == 0:
        mask[:] = True
    elif form == 1:
        mask[2:4] = True
    else:
        mask[2:4] = mask[:, 2:4] = True
    place = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    place[top : top + 6, left : left + 6] = mask[: SIDE - top, : SIDE - left]
    ink = torch.tensor(list(COLOURS.values())[colour])[:, None]
    picture[:, place] = ink - torch.randint(0, 25, (3, int(place.sum())), generator=generator)
    return picture.clamp(0, 255).to(torch.uint8)


def shapes(folder: Path, sizes: dict[str, int] | None = None) -> Dataset:
    """Shapes whose classes are their colours, in equal shares."""
    files, first = {}, 0
    for split, rows in (sizes or SIZES).items():
        pictures = [drawn(row % 4, row // 4 % 3, first + row) for row in range(rows)]
        files[f"{split}/0.parquet"] = _write(folder / split / "0.parquet", pictures)
        first += rows
    content = {
        "name": folder.name,
        "modality": "image",
        "revision": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "shape": [3, SIDE, SIDE],
        "classes": list(COLOURS),
        "licence": "CC0-1.0",
        "source": "made",
        "files": files,
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return open_dataset(folder)


def _write(path: Path, pictures: list[Tensor]) -> dict[str, object]:
    path.parent.mkdir(parents=True)
    rows = [picture.numpy().tobytes() for picture in pictures]
    columns = {
        "id": [hashlib.sha256(row).hexdigest() for row in rows],
        "image": rows,
        "label": [row % 4 for row in range(len(rows))],
    }
    about = {"name": "shapes", "licence": "CC0-1.0", "source": "made"}
    arrow = schema((3, SIDE, SIDE), list(COLOURS), about)
    pq.write_table(pa.table(columns, schema=arrow), path)
    return {"rows": len(rows), "sha256": file_hash(path)}
