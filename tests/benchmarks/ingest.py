"""How fast 28×28 batches come out of Parquet on one core, and how soon the first."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from components.data.dataset import Batches, Position
from tests.benchmarks.data import mnist
from tests.benchmarks.row import Row

BATCH, REPEATS, EPOCHS = 128, 5, 3


def run(project: Path) -> list[Row]:
    """Batches of 128 float pictures, three epochs a repeat."""
    dataset = mnist(project)
    torch.set_num_threads(1)
    firsts, rates = [], []
    count = EPOCHS * dataset.rows("train") // BATCH
    for seed in range(REPEATS):
        began = time.perf_counter()
        stream = Batches(dataset, "train", BATCH, seed).from_position(Position())
        next(stream)
        firsts.append(time.perf_counter() - began)
        began = time.perf_counter()
        for _ in range(count):
            next(stream)
        rates.append(count * BATCH / (time.perf_counter() - began))
    rate, first = statistics.median(rates), max(firsts)
    return [
        Row(
            "ingest of 28×28 batches, one core", f"{rate:,.0f} images/s", "≥ 50,000 images/s", {"rate": rate}
        ),
        Row("first batch, slowest of 5", f"{first:.2f} s", "≤ 1 s", {"first": first}),
    ]
