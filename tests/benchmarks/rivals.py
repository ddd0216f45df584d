"""Our server beside LitServe and plain Ray Serve: the same networks, batches, PNG and JSON, the same cores and load."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx

from components.families.gan import GAN
from components.project import Project, open_project
from tests.benchmarks.load import percentile, press, seconds
from tests.benchmarks.row import Row
from tests.benchmarks.serve import CONNECTIONS, MILLI, bodies
from tests.benchmarks.site import DRAW, MNIST, ROOT, SMALL, echo, publish, serving
from tests.components.serving.conftest import free_port
from tests.until import until

ROUNDS, SECONDS = 3, 5.0
LITSERVE = {"litserve": 0.0, "litserve-waiting": 0.005}
"""LitServe's ways of batching, with the seconds that it waits for a batch to fill."""


@dataclass(frozen=True)
class Speed:
    """Requests a second, the median of the rounds, and latencies in seconds over all of them; `failed` of all."""

    rate: float
    p50: float
    p99: float
    failed: int

    def __str__(self) -> str:
        waits = f"p50 {self.p50 * MILLI:.2f}, p99 {self.p99 * MILLI:.2f} ms"
        return f"{self.rate:,.0f}/s, {waits}" + (f", {self.failed} failed" if self.failed else "")


def run(project: Path) -> list[Row]:
    """Each server runs alone; of LitServe's two ways of batching the faster one counts."""
    where = open_project(project)
    small = publish(where, "echo", echo(where), SMALL)
    large = publish(where, "mnist", GAN(), MNIST)
    with serving(where, ["echo"]) as url:
        ours = {count: pressed(f"{url}{DRAW}", count) for count in (1, CONNECTIONS)}
    with serving(where, ["mnist"]) as url:
        gan = pressed(f"{url}{DRAW}", CONNECTIONS)
    pairs = {name: pair(where, name) for name in ("echo", "mnist")}
    lit = {count: fastest(where, small, count) for count in (1, CONNECTIONS)}
    lit_gan = fastest(where, large, CONNECTIONS)
    with rival(where, "ray-serve", small) as url:
        plain = pressed(url, CONNECTIONS)
    with rival(where, "bytes", small) as url:
        bound = pressed(url, CONNECTIONS)
    return [
        beside("echo", CONNECTIONS, ours[CONNECTIONS], lit[CONNECTIONS], "≥ 1.5×"),
        beside("echo", 1, ours[1], lit[1], "≥ 2×"),
        beside(
            "echo", CONNECTIONS, ours[CONNECTIONS], plain, "≥ 5×", f"Ray Serve {version('ray')} as it comes"
        ),
        beside("GAN on MNIST's shape", CONNECTIONS, gan, lit_gan, "≥ 1.5×"),
        beside("echo by two replicas", CONNECTIONS, pairs["echo"], lit[CONNECTIONS], "≥ 1.5×"),
        beside("GAN on MNIST's shape by two replicas", CONNECTIONS, pairs["mnist"], lit_gan, "≥ 1.5×"),
        Row(
            f"the load generator itself, asking for bytes, {CONNECTIONS} connections",
            f"{bound}, {bound.rate / ours[CONNECTIONS].rate:.1f}× of what it asked of ours",
            "stated",
            {"rate": bound.rate},
        ),
    ]


def pair(where: Project, product: str) -> Speed:
    """Ours by two processes, as LitServe has two: one that speaks HTTP and one that computes."""
    with serving(where, [product], replicas=2) as url:
        return pressed(f"{url}{DRAW}", CONNECTIONS)


def beside(model: str, connections: int, ours: Speed, theirs: Speed, wanted: str, who: str = "") -> Row:
    """How many times as many requests a second ours answers."""
    who = who or f"LitServe {version('litserve')}"
    many = "one connection" if connections == 1 else f"{connections} connections"
    return Row(
        f"{model}, {many}, against {who}",
        f"{ours.rate / theirs.rate:.1f}× ({ours}; {who}: {theirs})",
        wanted,
        {"ratio": ours.rate / theirs.rate, "ours": ours.rate, "theirs": theirs.rate},
    )


def fastest(where: Project, artifact: Path, connections: int) -> Speed:
    """LitServe's speed, by whichever way of batching is faster."""
    found = []
    for name in LITSERVE:
        with rival(where, name, artifact) as url:
            found.append(pressed(url, connections))
    return max(found, key=lambda speed: speed.rate)


def pressed(url: str, connections: int) -> Speed:
    """Warm up, then press in rounds."""
    loads = []
    for usual in (1.0, *[SECONDS] * ROUNDS):
        end = time.perf_counter() + seconds(usual)
        loads.append(asyncio.run(press(url, bodies(), connections, lambda: time.perf_counter() > end)))  # noqa: B023
    rounds = [load.latencies() for load in loads[1:]]
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
def rival(where: Project, name: str, artifact: Path) -> Iterator[str]:
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
        yield url
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
