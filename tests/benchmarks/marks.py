"""What marks cost an answer: a small picture with metadata, and with a signature, against the same without."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import replace
from pathlib import Path

from components.families.gan import GAN
from components.labels import credentials
from components.labels.marker import Marker, open_marker
from components.modalities.drawing import ImageRequest
from components.project import open_project
from components.promotion.registry import Registry
from components.serving.catalog import Loaded, Served, open_version
from components.serving.routes.images import respond
from components.terms import Labels, Terms
from tests.benchmarks.row import Row
from tests.benchmarks.site import MNIST, publish

PRODUCT = "mnist"
TURNS, EACH = 40, 25
"""How often the three kinds of answers take turns, and answers of each in a turn."""
MICRO = 1e6


def run(project: Path) -> list[Row]:
    """The route's work in this process, by a GAN of the plain size: the engine, PNG, mark, JSON; no HTTP."""
    where = open_project(project)
    publish(where, PRODUCT, GAN(), MNIST)
    credentials.make(where.settings)
    registry = Registry(where.settings)
    folder = registry.fetch(registry.version(PRODUCT, "champion"))
    loaded = open_version(Served(PRODUCT, 1, folder, 0, terms=Terms(labels="none")), where.settings)
    kinds: tuple[Labels, ...] = ("none", "metadata", "signed")
    marked = {
        kind: replace(
            loaded,
            marker=open_marker(PRODUCT, 1, loaded.model.digest, Terms(labels=kind), where.settings),
        )
        for kind in kinds
    }
    found = asyncio.run(turns(marked))
    (file,), _ = loaded.generate(ImageRequest(seed=1))
    alone = {kind: mark_seconds(one.marker, file) for kind, one in marked.items() if one.marker is not None}
    loaded.engine.close()
    return [
        row(kind, wanted, found, alone[kind])
        for kind, wanted in (("metadata", "≤ 1.1×"), ("signed", "stated"))
    ]


async def turns(marked: dict[Labels, Loaded]) -> dict[Labels, list[float]]:
    """The processor's seconds of an answer in each turn, of all threads: whoever else works here takes none of them."""
    found: dict[Labels, list[float]] = {kind: [] for kind in marked}
    seeds = itertools.count()
    for _ in range(TURNS):
        for kind, loaded in marked.items():
            began = time.process_time()
            for _ in range(EACH):
                body = ImageRequest(seed=next(seeds))
                await respond(loaded, body, loaded.order(body), "image_generation")
            found[kind].append((time.process_time() - began) / EACH)
    return found


def mark_seconds(marker: Marker, file: bytes) -> float:
    """The seconds of one mark alone, the median of many."""
    took = []
    for seed in range(500):
        began = time.perf_counter()
        marker.mark(file, "image/png", seed)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def row(kind: Labels, wanted: str, found: dict[Labels, list[float]], alone: float) -> Row:
    """An answer with marks of a kind against one without, as the median of the turns' ratios."""
    ratio = statistics.median(own / bare for own, bare in zip(found[kind], found["none"], strict=True))
    own, bare = (statistics.median(found[which]) * MICRO for which in (kind, "none"))
    measured = (
        f"{ratio:.2f}× ({own:.0f} µs of the processor; {bare:.0f} µs without); "
        f"the mark alone takes {alone * MICRO:.0f} µs"
    )
    what = f"`labels: {kind}`, an answer of one 28×28 picture in process against one without marks"
    return Row(what, measured, wanted, {"ratio": ratio, "micro": alone * MICRO})
