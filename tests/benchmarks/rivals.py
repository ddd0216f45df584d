"""Our server beside LitServe and plain Ray Serve: the same networks, batches, PNG and JSON, the same cores and load."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from components.families.gan import GAN
from components.project import Project, open_project
from components.serving import server
from tests.benchmarks.load import Load, percentile, press, seconds
from tests.benchmarks.row import Row
from tests.benchmarks.serve import CONNECTIONS, MILLI, bodies
from tests.benchmarks.site import DRAW, MNIST, ROOT, SMALL, echo, publish, serving
from tests.components.serving.conftest import free_port
from tests.until import until

ROUNDS, SECONDS = 7, 4.0
LITSERVE = {"litserve": 0.0, "litserve-waiting": 0.005}
"""LitServe's ways of batching, with the seconds that it waits for a batch to fill."""


@dataclass(frozen=True)
class Speed:
    """Requests a second, the median of the turns, and latencies in seconds over all of them; `failed` of all."""

    rate: float
    p50: float
    p99: float
    failed: int

    def __str__(self) -> str:
        waits = f"p50 {self.p50 * MILLI:.2f}, p99 {self.p99 * MILLI:.2f} ms"
        return f"{self.rate:,.0f}/s, {waits}" + (f", {self.failed} failed" if self.failed else "")


def run(project: Path) -> list[Row]:
    """Ours and LitServe in turns, each alone while it is asked; the other servers one after the other."""
    where = open_project(project)
    small = publish(where, "echo", echo(where), SMALL)
    large = publish(where, "mnist", GAN(), MNIST)
    many, one = (CONNECTIONS, "≥ 1.5×"), (1, "≥ 2×")
    rows = [
        *beside("echo", where, "echo", small, [many, one]),
        *beside("GAN on MNIST's shape", where, "mnist", large, [many]),
        *beside("echo by two replicas", where, "echo", small, [many], replicas=2),
        *beside("GAN on MNIST's shape by two replicas", where, "mnist", large, [many], replicas=2),
    ]
    with serving(where, ["echo"]) as url:
        ours = pressed(f"{url}{DRAW}", CONNECTIONS)
    with rival(where, "ray-serve", small) as theirs:
        plain = pressed(theirs.url, CONNECTIONS)
    with rival(where, "bytes", small) as theirs:
        bound = pressed(theirs.url, CONNECTIONS)
    who = f"Ray Serve {version('ray')} as it comes"
    return [
        *rows,
        row("echo", CONNECTIONS, who, ours, plain, ours.rate / plain.rate, "≥ 5×"),
        Row(
            f"the load generator itself, asking for bytes, {CONNECTIONS} connections",
            f"{bound}, {bound.rate / ours.rate:.1f}× of what it asked of ours",
            "stated",
            {"rate": bound.rate},
        ),
    ]


@dataclass(frozen=True)
class Contender:
    """A server that runs: where it draws, and what sends all its processes a signal."""

    url: str
    tell: Callable[[int], None]


def beside(
    model: str,
    where: Project,
    product: str,
    artifact: Path,
    counts: Sequence[tuple[int, str]],
    replicas: int = 1,
) -> Iterator[Row]:
    """How many times as many requests a second ours answers as the faster of LitServe's two ways of batching.

    `counts` are connections, each with what is wanted of them.
    """
    with ExitStack() as running:
        url = running.enter_context(serving(where, [product], replicas))
        ours = Contender(f"{url}{DRAW}", tree(where))
        theirs = [running.enter_context(rival(where, name, artifact)) for name in LITSERVE]
        found = [in_turns([ours, *theirs], connections) for connections, _ in counts]
    who = f"LitServe {version('litserve')}"
    for (connections, wanted), loads in zip(counts, found, strict=True):
        speeds = [speed_of(own) for own in loads]
        best = max(range(1, len(speeds)), key=lambda place: speeds[place].rate)
        turns = zip(loads[0], loads[best], strict=True)
        ratio = statistics.median(len(own.latencies()) / len(other.latencies()) for own, other in turns)
        yield row(model, connections, who, speeds[0], speeds[best], ratio, wanted)


def row(model: str, connections: int, who: str, ours: Speed, theirs: Speed, ratio: float, wanted: str) -> Row:
    """One comparison as the table has it."""
    many = "one connection" if connections == 1 else f"{connections} connections"
    return Row(
        f"{model}, {many}, against {who}",
        f"{ratio:.2f}× ({ours}; {who}: {theirs})",
        wanted,
        {"ratio": ratio, "ours": ours.rate, "theirs": theirs.rate},
    )


def in_turns(contenders: Sequence[Contender], connections: int) -> list[list[Load]]:
    """What each answered in `ROUNDS` turns of `SECONDS` after one of warm-up; the others stand still meanwhile.

    A machine that others use too is faster in one minute than in the next, so that only turns that follow each other
    can be compared.
    """
    loads: list[list[Load]] = [[] for _ in contenders]
    for contender in contenders:
        contender.tell(signal.SIGSTOP)
    try:
        for turn in range(ROUNDS + 1):
            for own, contender in zip(loads, contenders, strict=True):
                contender.tell(signal.SIGCONT)
                own.append(pressing(contender.url, connections, SECONDS if turn else 1.0))
                contender.tell(signal.SIGSTOP)
    finally:
        for contender in contenders:
            contender.tell(signal.SIGCONT)
    return [own[1:] for own in loads]


def tree(where: Project) -> Callable[[int], None]:
    """What tells all processes of our server a signal: its own, Ray's, the proxy, the replicas."""

    def tell(number: int) -> None:
        running = server.find(where.settings)
        assert running is not None
        own = psutil.Process(running.pid)
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                process.send_signal(number)

    return tell


def pressed(url: str, connections: int) -> Speed:
    """Warm up, then press in rounds."""
    pressing(url, connections, 1.0)
    return speed_of([pressing(url, connections, SECONDS) for _ in range(ROUNDS)])


def pressing(url: str, connections: int, lasting: float) -> Load:
    """One turn."""
    end = time.perf_counter() + seconds(lasting)
    return asyncio.run(press(url, bodies(), connections, lambda: time.perf_counter() > end))


def speed_of(loads: Sequence[Load]) -> Speed:
    """What the turns come to."""
    rounds = [load.latencies() for load in loads]
    every = sorted(took for found in rounds for took in found)
    return Speed(
        rate=statistics.median(len(found) for found in rounds) / seconds(SECONDS),
        p50=percentile(every, 0.5),
        p99=percentile(every, 0.99),
        failed=sum(load.failed for load in loads),
    )


def line(name: str, artifact: Path, port: int) -> list[str]:
    """The module that is the server `name`, with its arguments."""
    if name in LITSERVE:
        return ["tests.benchmarks.rival_litserve", str(artifact), str(port), str(LITSERVE[name])]
    return ["tests.benchmarks.rival_servers", name, str(artifact), str(port)]


@contextmanager
def rival(where: Project, name: str, artifact: Path) -> Iterator[Contender]:
    """Another server, as a process group that ends with the block; nothing of our settings of Ray reaches it."""
    port = free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    path = os.pathsep.join((str(where.root), str(ROOT)))
    log = where.root / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *line(name, artifact, port)],
            cwd=where.root,
            env={**kept, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}/predict"
    try:
        until(lambda: answers(url) or process.poll() is not None)
        assert process.poll() is None, log.read_text(errors="replace")
        yield Contender(url, partial(os.killpg, process.pid))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    """Whether it draws."""
    try:
        return httpx.post(url, json={"seed": 1}, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
