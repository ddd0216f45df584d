"""Five times as many requests as a model can answer, for a minute: what is refused, how, and what it costs."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from components.artifact import WIDTH
from components.project import open_project
from tests.benchmarks.load import Load, percentile, pour, press, seconds
from tests.benchmarks.row import Row
from tests.benchmarks.site import DRAW, SMALL, echo, processes, publish, serving

PAUSE, PICTURES, TIMES = 0.05, 4, 5
"""Seconds a step of the model, which has 16 rows; pictures a request; the load in capacities."""
SECONDS, CALM, AFTER, CONNECTIONS = 60.0, 5.0, 15.0, 32
MIB = 2**20


def run(project: Path) -> list[Row]:
    """One replica of a model that is slow by sleeping, so that the cores are the server's and the load's."""
    where = open_project(project)
    publish(where, "echo", echo(where, PAUSE), SMALL)
    with serving(where, ["echo"]) as url:
        (replica,) = processes(where)
        capacity = speed(url, CALM)
        with watched(replica) as memory:
            load = asyncio.run(
                pour(f"{url}{DRAW}", bodies(), TIMES * WIDTH / PAUSE / PICTURES, seconds(SECONDS))
            )
        end = max(at for at, *_ in load.answers)
        return [row(load, memory, capacity, recovered(url, capacity, end))]


def bodies() -> Iterator[dict[str, object]]:
    """Requests of a few pictures each."""
    return ({"seed": seed, "n": PICTURES} for seed in itertools.count(0, PICTURES))


def speed(url: str, usual: float) -> float:
    """Answers a second of a closed loop."""
    end = time.perf_counter() + seconds(usual)
    load = asyncio.run(press(f"{url}{DRAW}", bodies(), CONNECTIONS, lambda: time.perf_counter() > end))
    return len(load.latencies()) / seconds(usual)


def recovered(url: str, capacity: float, since: float) -> float:
    """Seconds after `since` until a second has nine tenths of the answers that it had before; infinite if none has."""
    while time.perf_counter() - since < AFTER:
        if speed(url, 1.0) >= 0.9 * capacity:
            return time.perf_counter() - since
    return float("inf")


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[int]]:
    """The process's memory in bytes, twice a second while the block runs, first before it."""
    found, over = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            found.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def row(load: Load, memory: list[int], capacity: float, back: float) -> Row:
    """Everything in one line."""
    took = load.latencies()
    statuses = Counter(status for _, _, status, _ in load.answers)
    said = ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))
    refused = [time for _, time, status, _ in load.answers if status != 200]
    waits = f"accepted p50 {percentile(took, 0.5):.2f}, p99 {percentile(took, 0.99):.2f} s"
    waits += f"; refused p99 {percentile(sorted(refused), 0.99) * 1000:.0f} ms" if refused else ""
    return Row(
        f"{TIMES}× the capacity of {capacity * PICTURES:.0f} pictures/s for {seconds(SECONDS):.0f} s",
        f"{said}, {len(load.lost)} without an answer, {len(load.malformed)} refusals not in our form; {waits}; memory "
        f"{memory[0] / MIB:.0f} → at most {max(memory) / MIB:.0f} MiB; full speed {back:.1f} s after the last answer",
        "memory and latency bounded; refusals well formed; ≤ 5 s",
        {
            "lost": len(load.lost),
            "malformed": len(load.malformed),
            "p99": percentile(took, 0.99),
            "more_mib": (max(memory) - memory[0]) / MIB,
            "back": back,
        },
    )
