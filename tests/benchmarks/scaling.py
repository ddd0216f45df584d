"""Two Ray Train workers against one, one core each, on models large enough to matter.

A perceptron has millions of weights, whose gradients are exchanged, for little arithmetic; a U-Net is the other way
round.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from components.project import open_project
from components.train.launch import train
from components.train.runs import load_run, read_progress
from tests.benchmarks.data import mnist
from tests.benchmarks.row import Row

STEPS, WARM, PAIRS = 25, 5, 3


@dataclass(frozen=True)
class Case:
    """A run with its changes, and how many rows a step has."""

    what: str
    run: str
    batch: int
    changes: tuple[str, ...] = ()


WIDE = ("model.width=1024", "model.depth=3")
PERCEPTRON = Case("vae 1,024 wide, 3 deep", "mnist-vae", 2048, WIDE)
LARGE = Case("vae 1,024 wide, 3 deep", "mnist-vae", 4096, WIDE)
UNET = Case("diffusion, the U-Net of mnist-diffusion", "mnist-diffusion", 256, ("train.warmup=0",))


def run(project: Path) -> list[Row]:
    """The same global batch by one and by two workers, alternating."""
    mnist(project)
    return [compare(project, PERCEPTRON)]


def large(project: Path) -> list[Row]:
    """A larger batch, which has less to exchange a row."""
    mnist(project)
    return [compare(project, LARGE)]


def unet(project: Path) -> list[Row]:
    """The same with convolutions."""
    mnist(project)
    return [compare(project, UNET)]


def compare(project: Path, case: Case) -> Row:
    """The median of three pairs at one global batch."""
    ratios = []
    for pair in range(PAIRS):
        one, two = (rate(project, workers, pair, case) for workers in (1, 2))
        ratios.append(two / one)
        print(f"  {one:,.0f} rows/s by one worker, {two:,.0f} by two", flush=True)
    ratio = statistics.median(ratios)
    measured = f"{ratio:.2f}× ({', '.join(f'{value:.2f}' for value in ratios)})"
    what = f"two workers against one, {case.what}, {case.batch:,} rows a step"
    return Row(what, measured, "≥ 1.6×", {"ratio": ratio})


def rate(project: Path, workers: int, seed: int, case: Case) -> float:
    """Rows a second in steady state with one thread a worker."""
    overrides = [
        *case.changes,
        f"train.steps={STEPS}",
        f"train.batch={case.batch}",
        f"train.seed={seed}",
        "train.threads=1",
    ]
    overrides += ["train.log_every=5", "train.sample_every=1000", "train.checkpoint_every=1000"]
    trained = train(open_project(project), case.run, overrides, workers=workers, fresh=True)
    lines = [line for line in read_progress(load_run(trained.folder)) if WARM <= line["step"] < STEPS]
    first, last = lines[0], lines[-1]
    return float((last["step"] - first["step"]) * case.batch / (last["seconds"] - first["seconds"]))
