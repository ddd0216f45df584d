"""Tiny prepared text, written by hand as the preparation of data writes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.dataset import Dataset, file_hash, open_dataset
from components.families.family import END
from components.modalities.text import schema
from components.modalities.tokenizer import TextTokenizer, train_tokenizer

Splits = Mapping[str, Sequence[str]]


def prepared(
    folder: Path,
    texts: Splits,
    width: int = 32,
    form: str = "text",
    sources: Splits | None = None,
    **details: Any,
) -> Dataset:
    """Documents of characters, packed into rows, or in windows where they are longer than `width`."""
    folder.mkdir(parents=True)
    every = [*texts["train"], *((sources or {}).get("train", ()))]
    tokenizer = train_tokenizer("characters", every, 0, False)
    tokenizer.save(folder)
    rows = {
        name: _rows(tokenizer, split, width, name == "train", sources is None)
        for name, split in texts.items()
    }
    if sources is None:  # rows lie on disk in any order
        rows = {name: split[::-1] for name, split in rows.items()}
    longest = max(len(row) for split in rows.values() for row, _ in split)
    about = {"shape": [width], "longest": longest, "source_shape": [64]}
    files = {}
    for name, split in rows.items():
        given = [tokenizer.encode(text) for text in sources[name]] if sources else None
        files[f"{name}/0.parquet"] = _write(folder / name / "0.parquet", split, given, about)
    content = {
        "name": folder.name,
        "modality": "text",
        "revision": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "shape": [width],
        "vocabulary": tokenizer.vocabulary,
        "prompt": [width, tokenizer.vocabulary],
        **({"source_shape": [64]} if sources else {}),
        "classes": [],
        "licence": "CC0-1.0",
        "source": "made",
        "files": files,
        "details": {
            "form": form,
            "scheme": "characters",
            "characters": {name: sum(map(len, split)) for name, split in texts.items()},
            "tokens": {name: sum(len(text) + 1 for text in split) for name, split in texts.items()},
            "documents": {name: len(split) for name, split in texts.items()},
            **details,
        },
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return open_dataset(folder)


def _rows(
    tokenizer: TextTokenizer, texts: Sequence[str], width: int, train: bool, packed: bool
) -> list[tuple[list[int], int]]:
    """Rows with how many of their tokens are new."""
    found: list[tuple[list[int], int]] = []
    for text in texts:
        tokens = [END, *tokenizer.encode(text), END]
        if packed and found and found[-1][0][0] == END and len(found[-1][0]) + len(tokens) - 1 <= width:
            row = found.pop()[0] + tokens[1:]
            found.append((row, len(row) - 1))
        elif len(tokens) <= width:
            found.append((tokens, len(tokens) - 1))
        elif train:
            for first in range(0, len(tokens) - width + 1, width):
                row = tokens[first : first + 2 * width - 1]
                found.append((row, len(row) - 1))
        else:
            found.append((tokens[:width], width - 1))
            for last in range(width, len(tokens), width // 4):
                row = tokens[last + width // 4 - width : last + width // 4]
                found.append((row, len(tokens[last : last + width // 4])))
    return found


def _write(
    path: Path,
    rows: list[tuple[list[int], int]],
    sources: list[list[int]] | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    columns: dict[str, list[Any]] = {
        "id": [str(place) for place in range(len(rows))],
        "tokens": [np.array(row, "<i4").tobytes() for row, _ in rows],
        "length": [len(row) for row, _ in rows],
        "fresh": [fresh for _, fresh in rows],
    }
    if sources is not None:
        columns["source"] = [np.array(row, "<i4").tobytes() for row in sources]
    path.parent.mkdir()
    pq.write_table(pa.table(columns, schema=schema(about, sources is not None)), path)
    return {"rows": len(rows), "sha256": file_hash(path)}
