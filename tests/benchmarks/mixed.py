"""Pictures, streams of text, clients that leave and requests that are wrong, all at once: does memory stay flat?"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from components.families.family import Shape
from components.families.gan import GAN
from components.families.gpt import GPT
from components.modalities.tokenizer import train_tokenizer
from components.project import open_project
from tests.benchmarks.load import Load, listen, press, seconds
from tests.benchmarks.overload import MIB, watched
from tests.benchmarks.row import Row
from tests.benchmarks.site import DRAW, MNIST, processes, publish, serving
from tests.benchmarks.streams import CHARACTERS, COMPLETE, text

MINUTES, HOUR = 300.0, 3600.0
WARM = 0.2
"""The share of the time that is not compared: caches and allocators fill."""


def run(project: Path) -> list[Row]:
    """The five-minute form."""
    return measured(project, MINUTES)


def hour(project: Path) -> list[Row]:
    """The form of an hour, which runs only if it is named."""
    return measured(project, HOUR)


def measured(project: Path, usual: float) -> list[Row]:
    """A GAN and a GPT of 0.8 million weights in one replica."""
    where = open_project(project)
    publish(where, "mnist", GAN(), MNIST)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer("characters", [CHARACTERS], 0, chat=False)
        tokenizer.save(Path(folder))
        shape = Shape(data=(128,), vocabulary=tokenizer.vocabulary, prompt=(128, tokenizer.vocabulary))
        publish(where, "tales", GPT(layers=4, heads=4, width=128), shape, assets=Path(folder))
    with serving(where, ["mnist", "tales"]) as url:
        (replica,) = processes(where)
        began = time.perf_counter()
        with watched(replica) as memory:
            pictures, texts, wrong = asyncio.run(mixture(url, seconds(usual)))
        took = time.perf_counter() - began
    kept = memory[int(WARM * len(memory)) :]
    part = max(1, len(kept) // 5)
    early, late = statistics.median(kept[:part]), statistics.median(kept[-part:])
    growth = late / early - 1
    return [
        Row(
            f"mixed load of {took / 60:.0f} minutes",
            f"memory {early / MIB:.0f} → {late / MIB:.0f} MiB ({growth:+.1%}); {len(pictures.answers):,} pictures "
            f"({pictures.failed} failed), {texts:,} texts, {len(wrong.answers):,} wrong requests",
            "flat within 5%",
            {"growth": growth, "failed": pictures.failed},
        )
    ]


async def mixture(url: str, lasting: float) -> tuple[Load, int, Load]:
    """Eight clients of pictures, four of text, two that leave in the middle, one that asks for what cannot be."""
    end, seeds, texts = time.perf_counter() + lasting, itertools.count(), 0

    def over() -> bool:
        return time.perf_counter() > end

    async def reader(leave: int | None) -> None:
        nonlocal texts
        while not over():
            heard = await listen(f"{url}{COMPLETE}", text(next(seeds)), leave)
            texts += heard is not None  # not in one line with the waiting: others count meanwhile

    drawing: Iterator[dict[str, object]] = (
        {"model": "mnist", "n": 1 + seed % 8, "seed": seed} for seed in itertools.count()
    )
    wrong: Iterator[dict[str, object]] = itertools.cycle([{"model": "nothing"}, {"model": "mnist", "n": 0}])
    readers = [reader(leave) for leave in (None, None, None, None, 1, 20)]
    pictures, refused, *_ = await asyncio.gather(
        press(f"{url}{DRAW}", drawing, 8, over), press(f"{url}{DRAW}", wrong, 1, over), *readers
    )
    return pictures, texts, refused
