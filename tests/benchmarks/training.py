"""The loop through Ray Train against the same step (with clipping and averaging) in a bare torch loop."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from components.families.family import Batch, Shape, kind_of
from components.project import open_project
from components.train.launch import train
from components.train.runs import load_run, read_progress
from components.train.step import networks_for
from tests.benchmarks.data import mnist
from tests.benchmarks.row import Row

STEPS, WARM, PAIRS, BATCH = {"vae": 900, "gan": 350}, 100, 5, 128


def run(project: Path) -> list[Row]:
    """Alternate the two, `PAIRS` times each, and take the median of the pairs' ratios."""
    dataset = mnist(project)
    rows = []
    for family, steps in STEPS.items():
        ratios = []
        for pair in range(PAIRS):
            ours = through_ray(project, family, steps, pair)
            bare = in_a_process(dataset.folder, family, steps)
            ratios.append(ours / bare)
            print(f"  {family}: {ours:,.0f} rows/s through Ray Train, {bare:,.0f} in a bare loop", flush=True)
        ratio = statistics.median(ratios)
        figures = {f"ratio {number}": value for number, value in enumerate(ratios)}
        slower = 100 * (1 - ratio)
        pairs = ", ".join(f"{100 * (1 - value):+.1f}" for value in ratios)
        measured = f"{abs(slower):.1f}% {'slower' if slower > 0 else 'faster'} (% slower, each pair: {pairs})"
        rows.append(
            Row(f"training loop through Ray Train against bare torch, {family}", measured, "≤ 3%", figures)
        )
    return rows


def through_ray(project: Path, family: str, steps: int, seed: int) -> float:
    """Rows a second in steady state, with progress, pictures and checkpoints as they are by default."""
    overrides = [f"train.steps={steps}", f"train.batch={BATCH}", f"train.seed={seed}", "train.precision=fp32"]
    trained = train(open_project(project), f"mnist-{family}", overrides, workers=1, fresh=True)
    lines = [line for line in read_progress(load_run(trained.folder)) if line["step"] >= WARM]
    first, last = lines[0], lines[-1]
    return float((last["step"] - first["step"]) * BATCH / (last["seconds"] - first["seconds"]))


def in_a_process(dataset: Path, family: str, steps: int) -> float:
    """The bare loop in a process of its own, as Ray's worker has one."""
    command = [
        sys.executable,
        "-c",
        f"from tests.benchmarks.training import bare; bare({str(dataset)!r}, {family!r}, {steps})",
    ]
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def bare(folder: str, name: str, steps: int) -> None:
    """A loop as one would write it by hand: tensors in memory, the family's losses, clipping, averaging."""
    from components.data.dataset import open_dataset

    torch.set_num_threads(torch.get_num_threads())
    data = open_dataset(Path(folder)).whole("train").data
    row = open_project(Path(folder)).run(f"mnist-{name}")
    family = kind_of(name)(**row.model)
    networks = networks_for(family, Shape(data=tuple(data.shape[1:])), 0)
    averages = {
        key: [value.detach().clone() for value in network.parameters()] for key, network in networks.items()
    }
    optimizers = {key: family.optimizers(key, network) for key, network in networks.items()}
    for step in range(steps):
        if step == WARM:
            began = time.perf_counter()
        batch = Batch(data=data[torch.randint(len(data), (BATCH,))], length=torch.ones(BATCH))
        for key, network in networks.items():
            others = [other for own, other in networks.items() if own != key]
            for other in others:
                other.requires_grad_(False)
            for optimizer in optimizers[key]:
                optimizer.zero_grad()
            loss, _ = family.loss(key, networks, batch, step)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for optimizer in optimizers[key]:
                optimizer.step()
            for other in others:
                other.requires_grad_(True)
        with torch.no_grad():
            for key, network in networks.items():
                torch._foreach_lerp_(averages[key], list(network.parameters()), 0.001)
    print(json.dumps((steps - WARM) * BATCH / (time.perf_counter() - began)))
