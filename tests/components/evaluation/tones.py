"""Tiny prepared recordings, written by hand as the preparation of data writes them: plucked tones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.dataset import Dataset, file_hash, open_dataset
from components.modalities.audio import save_rate, schema

RATE, SAMPLES = 8000, 1024
PITCHES = {"low": 220.0, "middle": 440.0, "high": 880.0, "shrill": 1760.0}
SIZES = {"train": 320, "val": 12, "test": 120}


def plucked(pitch: float, seed: int, rate: int = RATE, samples: int = SAMPLES) -> np.ndarray[Any, Any]:
    """A tone with two overtones that dies away, of its own loudness, phase and tuning, in a little noise; int16 [T]."""
    chance = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    own = pitch * 2 ** chance.uniform(-0.1, 0.1)
    parts = [np.sin(2 * np.pi * own * k * time + chance.uniform(0, 6)) / k**2 for k in (1, 2, 3)]
    sound = np.sum(parts, 0) * np.exp(-time * chance.uniform(8, 20)) * chance.uniform(0.2, 0.6)
    noisy = sound + chance.normal(0, 0.002, samples)
    return (noisy.clip(-1, 1) * 32_767).round().astype("<i2")


def tones(folder: Path, sizes: Mapping[str, int] = SIZES, rate: int = RATE) -> Dataset:
    """Recordings whose classes are their pitches, in equal shares."""
    about = {"name": folder.name, "licence": "CC0-1.0", "source": "made"}
    arrow, files, first = schema(SAMPLES, rate, list(PITCHES), about), {}, 0
    for split, rows in sizes.items():
        labels = [row % len(PITCHES) for row in range(rows)]
        pitches = list(PITCHES.values())
        sounds = [plucked(pitches[label], first + row, rate).tobytes() for row, label in enumerate(labels)]
        ids = [hashlib.sha256(sound).hexdigest() for sound in sounds]
        path = folder / split / "0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table({"id": ids, "audio": sounds, "label": labels}, schema=arrow), path)
        files[f"{split}/0.parquet"] = {"rows": rows, "sha256": file_hash(path)}
        first += rows
    name = save_rate(folder, rate)
    content = {
        **about,
        "modality": "audio",
        "revision": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "shape": [SAMPLES],
        "classes": list(PITCHES),
        "files": files,
        "assets": {name: file_hash(folder / name)},
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return open_dataset(folder)
