"""Serving: what the routes cost beside the engine, many connections, and champions that move under load."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from components.families.gan import GAN
from components.project import ProductRow, Project, open_project
from components.promotion.promote import promote
from components.promotion.registry import Registry
from components.serving.catalog import Served, open_version
from components.serving.client import models
from tests.benchmarks.load import Load, percentile, press, seconds
from tests.benchmarks.row import Row
from tests.benchmarks.site import DRAW, MNIST, publish, serving

PRODUCT, ROW = "mnist", ProductRow(dataset="mnist")
MOVES, REQUESTS, BETWEEN, CONNECTIONS, SECONDS = 20, 10_000, 3.0, 32, 10.0
MILLI = 1000.0


def run(project: Path) -> list[Row]:
    """One server with a GAN of the plain size; its weights are fresh, which costs the same as trained ones."""
    where = open_project(project)
    for seed in (1, 2):
        publish(where, PRODUCT, GAN(), MNIST, seed)
    with serving(where, [PRODUCT]) as url:
        return [*one_connection(where, url), *many(url), *moved(where, url)]


def bodies() -> Iterator[dict[str, object]]:
    """Requests of one picture each."""
    return ({"seed": seed} for seed in itertools.count())


def pressed(url: str, connections: int, usual: float) -> Load:
    """Ask for pictures for so many seconds."""
    end = time.perf_counter() + seconds(usual)
    return asyncio.run(press(f"{url}{DRAW}", bodies(), connections, lambda: time.perf_counter() > end))


def one_connection(where: Project, url: str) -> list[Row]:
    """The latency of one connection, beside that of the engine, its request and its PNG in this process."""
    pressed(url, 1, 2.0)
    over = pressed(url, 1, SECONDS).latencies()
    registry = Registry(where.settings)
    version = registry.version(PRODUCT, "champion")
    loaded = open_version(Served(PRODUCT, version.number, registry.fetch(version), 0), where.settings)
    inside = []
    for body in itertools.islice(bodies(), 500):
        request = loaded.model.modality.request.model_validate(body)
        began = time.perf_counter()
        loaded.generate(request)
        inside.append(time.perf_counter() - began)
    loaded.engine.close()
    cost = statistics.median(over) - statistics.median(inside)
    measured = (
        f"p50 {cost * MILLI:.2f} ms more than in process ({statistics.median(inside) * MILLI:.2f} ms); "
        f"{len(over) / seconds(SECONDS):,.0f} requests/s, p50 {statistics.median(over) * MILLI:.2f}, "
        f"p99 {percentile(over, 0.99) * MILLI:.2f} ms"
    )
    return [
        Row("GAN on MNIST's shape over HTTP, one connection", measured, "≤ 1 ms more", {"ms": cost * MILLI})
    ]


def many(url: str) -> list[Row]:
    """Requests a second over many connections."""
    load = pressed(url, CONNECTIONS, SECONDS)
    found = load.latencies()
    measured = (
        f"{len(found) / seconds(SECONDS):,.0f} requests/s, p50 {statistics.median(found) * MILLI:.1f}, "
        f"p99 {percentile(found, 0.99) * MILLI:.1f} ms; {load.failed} failed"
    )
    return [
        Row(
            f"the same, {CONNECTIONS} connections", measured, "stated", {"rps": len(found) / seconds(SECONDS)}
        )
    ]


def moved(where: Project, url: str) -> list[Row]:
    """The champion moved again and again under load: failures, the latency while it happens, and how long it takes."""
    windows: list[tuple[float, float]] = []
    delays: list[float] = []
    over, load = threading.Event(), Load()
    moves, pause = (MOVES, BETWEEN) if seconds(SECONDS) == SECONDS else (2, 1.0)

    def mover() -> None:
        time.sleep(pause)
        for turn in range(moves):
            target = 2 - turn % 2
            began = time.perf_counter()
            assert promote(where.settings, PRODUCT, ROW, target, force=True).accepted
            decided = time.perf_counter()
            while models(url)[0]["version"] != target:
                time.sleep(0.02)
            delays.append(time.perf_counter() - decided)
            windows.append((began, time.perf_counter() + 0.25))
            time.sleep(pause)
        while moves == MOVES and load.asked < REQUESTS:
            time.sleep(0.1)
        over.set()

    moving = threading.Thread(target=mover)
    moving.start()
    asyncio.run(press(f"{url}{DRAW}", bodies(), CONNECTIONS, over.is_set, load))
    moving.join()

    def swapping(at: float) -> bool:
        return any(first <= at <= last for first, last in windows)

    calm = percentile(load.latencies(lambda at: not swapping(at)), 0.99)
    busy = percentile(load.latencies(swapping), 0.99)
    versions = {version for *_, version in load.answers}
    measured = (
        f"{load.failed} of {load.asked:,} requests failed; p99 {busy * MILLI:.0f} ms while "
        f"it moves, {calm * MILLI:.0f} ms otherwise ({busy / calm:.1f}×); the new version answers "
        f"{statistics.median(delays):.2f} s after the move (slowest {max(delays):.2f} s); versions {sorted(versions)}"
    )
    what = f"the champion moved {moves} times under load, {CONNECTIONS} connections"
    wanted = f"0 failed of ≥ {REQUESTS:,}; p99 ≤ 2×; ≤ 3 s"
    return [Row(what, measured, wanted, {"failed": load.failed, "ratio": busy / calm})]
