"""The loop through Ray Train against the same step (with clipping and averaging) in a bare torch loop.

Both ways of Ray Train: in the process of the command, as a machine without a Ray trains by default, and as a worker.
Machines are noisy for seconds and minutes, and two runs one after the other may differ by a fifth. So both are started,
and in turns one of them is let go and the other stopped, Ray's processes with the one that they belong to. A process
also stays as fast or slow as it happened to begin, so there are several pairs of new ones, and beside them pairs in
which the bare loop runs against itself: what these differ by is no loop's doing.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

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

Call: TypeAlias = tuple[object, ...]
"""A function of this module by its name, and what it is given beside project, family and folder."""
BATCH, WARM, FOREVER = 128, 100, 10**6
TURN, PAIRS, TURNS = 2.0, 7, 6
"""Seconds of a turn; pairs of new processes, each with so many turns, whose ratios are told beside their median."""
PATIENCE = 180.0
ROOT = Path(__file__).resolve().parent.parent.parent


def here(family: str) -> Callable[[Path], list[Row]]:
    """The benchmark of a family in the process of the command, and of the bare loop against itself."""

    def run(project: Path) -> list[Row]:
        bare = ("bare", str(mnist(project).folder))
        what = (
            f"training loop through Ray Train, in its local mode, the default, against bare torch, {family}"
        )
        ours = compared(what, "≤ 3%", project, family, ("through_ray", 0), bare)
        return [
            ours,
            compared(f"the bare loop against itself, {family}", "stated", project, family, bare, bare),
        ]

    return run


def by_worker(project: Path) -> list[Row]:
    """Both families by one worker of Ray Train."""
    bare = ("bare", str(mnist(project).folder))
    what = "training loop through Ray Train, by one worker, against bare torch"
    return [
        compared(f"{what}, {family}", "≤ 3%", project, family, ("through_ray", 1), bare)
        for family in ("vae", "gan")
    ]


def compared(what: str, wanted: str, project: Path, family: str, one: Call, other: Call) -> Row:
    """How much slower `one` is than `other`."""
    ratios = [pair(project, family, one, other) for _ in range(PAIRS)]
    slower = 100 * (1 - statistics.median(ratios))
    each = ", ".join(f"{100 * (1 - value):+.1f}" for value in sorted(ratios, reverse=True))
    measured = f"{abs(slower):.1f}% {'slower' if slower > 0 else 'faster'} (% slower, each pair: {each})"
    return Row(what, measured, wanted, {f"ratio {number}": value for number, value in enumerate(ratios)})


def pair(project: Path, family: str, one: Call, other: Call) -> float:
    """How many times as fast `one` is as `other`, both in processes of their own, over some turns of each."""
    with side(project, family, *one) as first, side(project, family, *other) as second:
        first.warm_up()
        second.warm_up()
        before = first.at, second.at
        for _ in range(TURNS):
            first.turn()
            second.turn()
    rates = [now.at.since(then) for now, then in zip((first, second), before, strict=True)]
    print(f"  {family}: {rates[0]:,.1f} steps/s of {one[0]}, {rates[1]:,.1f} of {other[0]}", flush=True)
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
def side(project: Path, family: str, name: object, *arguments: object) -> Iterator[Side]:
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
