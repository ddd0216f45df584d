"""The loop through Ray Train against the same step (with clipping and averaging) in a bare torch loop.

Both ways of Ray Train: in the process of the command, as a machine without a Ray trains by default, and as a worker.
Machines are noisy for seconds and minutes, and two runs one after the other may differ by a fifth. So both are started,
and in turns one of them is let go and the other stopped, Ray's processes with the one that they belong to.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch import nn

from components.families.family import Batch, Shape, kind_of
from components.project import open_project
from components.settings import QUIET
from components.train.launch import train
from components.train.step import networks_for
from tests.benchmarks.data import mnist
from tests.benchmarks.load import seconds
from tests.benchmarks.row import Row

WAYS = {0: "in its local mode, the default", 1: "by one worker"}
"""Numbers of workers, and what they are called in the table."""
FAMILIES, BATCH, WARM, FOREVER = ("vae", "gan"), 128, 100, 10**6
TURN, BLOCKS, TURNS = 2.0, 5, 8
"""Seconds of a turn; blocks of so many turns each, whose ratios are told beside their median."""
PATIENCE = 180.0
ROOT = Path(__file__).resolve().parent.parent.parent


def run(project: Path) -> list[Row]:
    """Both families, both ways; the median of the blocks' ratios."""
    dataset = mnist(project)
    return [against_bare(project, family, workers, dataset.folder) for workers in WAYS for family in FAMILIES]


def against_bare(project: Path, family: str, workers: int, dataset: Path) -> Row:
    """One family, one way."""
    with side(project, family, "through_ray", workers) as ours:
        ours.warm_up()
        with side(project, family, "bare", str(dataset)) as bare:
            bare.warm_up()
            ratios = [block(ours, bare) for _ in range(BLOCKS)]
    slower = 100 * (1 - statistics.median(ratios))
    each = ", ".join(f"{100 * (1 - value):+.1f}" for value in ratios)
    measured = f"{abs(slower):.1f}% {'slower' if slower > 0 else 'faster'} (% slower, each block: {each})"
    figures = {f"ratio {number}": value for number, value in enumerate(ratios)}
    what = f"training loop through Ray Train, {WAYS[workers]}, against bare torch, {family}"
    return Row(what, measured, "≤ 3%", figures)


def block(ours: Side, bare: Side) -> float:
    """How many times as fast ours is, over some turns of each."""
    before = ours.at, bare.at
    for _ in range(TURNS):
        ours.turn()
        bare.turn()
    rates = [now.at.since(then) for now, then in zip((ours, bare), before, strict=True)]
    print(f"  {rates[0]:,.1f} steps/s through Ray Train, {rates[1]:,.1f} in a bare loop", flush=True)
    return rates[0] / rates[1]


@dataclass(frozen=True)
class At:
    """A step that was told, and for how many seconds its side had run by then."""

    step: int
    seconds: float

    def since(self, before: At) -> float:
        """Steps a second."""
        return (self.step - before.step) / (self.seconds - before.seconds)


@dataclass
class Side:
    """A process with all that it starts, which tells its steps in the lines of a file."""

    process: psutil.Process
    folder: Path
    ran: list[tuple[float, float]] = field(default_factory=list)
    at: At = field(default_factory=lambda: At(0, 0.0))

    def warm_up(self) -> None:
        """Let it run until it has made some steps."""
        late = time.monotonic() + PATIENCE
        while self.at.step < WARM:
            assert time.monotonic() < late, f"{self.process} makes no steps"
            assert self.process.status() != psutil.STATUS_ZOMBIE, f"{self.process} has ended"
            self.turn()

    def turn(self) -> None:
        """Run alone for a while, and look where it has come."""
        self.signal("resume")
        began = time.time()
        time.sleep(seconds(TURN))
        self.signal("suspend")
        self.ran.append((began, time.time()))
        for path in self.folder.rglob("progress.jsonl"):
            *_, last = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            self.at = At(int(json.loads(last)["step"]), self._ran_until(path.stat().st_mtime))

    def _ran_until(self, moment: float) -> float:
        return sum(max(0.0, min(moment, end) - began) for began, end in self.ran)

    def signal(self, name: str) -> None:
        """Call psutil's method of that name for all of its processes."""
        for process in [*self.process.children(recursive=True), self.process]:
            with suppress(psutil.NoSuchProcess):
                getattr(process, name)()


@contextmanager
def side(project: Path, family: str, name: str, *arguments: object) -> Iterator[Side]:
    """A process that calls this module's function of that name, stopped; it is ended with all that it started."""
    folder = project / f"side-{name}-{family}-{time.time_ns()}"
    call = f"{name}({', '.join(map(repr, (str(project), family, str(folder), *arguments)))})"
    # the bare loop has nobody's settings, and ours makes its own before torch is imported, as the command does
    own = "" if name == "bare" else "from components.settings import quiet_environment; quiet_environment(); "
    program = f"{own}from tests.benchmarks.training import {name}; {call}"
    plain = {key: value for key, value in os.environ.items() if key not in QUIET}
    started = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=plain)
    found = Side(psutil.Process(started.pid), folder)
    try:
        found.signal("suspend")
        yield found
    finally:
        found.signal("kill")
        started.wait()


def through_ray(project: str, family: str, folder: str, workers: int) -> None:
    """Ours, with progress, pictures and checkpoints as they are by default; its state lies in `folder`."""
    os.environ["GENLOOM_HOME"] = folder
    overrides = [f"train.steps={FOREVER}", f"train.batch={BATCH}", "train.precision=fp32"]
    train(open_project(Path(project)), f"mnist-{family}", overrides, workers=workers, fresh=True)


def bare(project: str, name: str, folder: str, dataset: str) -> None:
    """A loop as one would write it by hand: tensors in memory, the family's losses, clipping, averaging."""
    from components.data.dataset import open_dataset

    data = open_dataset(Path(dataset)).whole("train").data
    row = open_project(Path(project)).run(f"mnist-{name}")
    family = kind_of(name)(**row.model)
    networks = networks_for(family, Shape(data=tuple(data.shape[1:])), 0)
    averages = {
        key: [value.detach().clone() for value in network.parameters()] for key, network in networks.items()
    }
    optimizers = {key: family.optimizers(key, network) for key, network in networks.items()}
    Path(folder).mkdir()
    for step in itertools.count(1):
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
        if step % row.train.log_every == 0:
            with (Path(folder) / "progress.jsonl").open("a") as stream:
                stream.write(json.dumps({"step": step}) + "\n")
