"""Requests that are computed together against one after the other: text as it is streamed, pictures by diffusion."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from components.artifact import load
from components.families.diffusion import Diffusion
from components.families.family import Requests, Shape
from components.families.gpt import GPT
from components.modalities.tokenizer import train_tokenizer
from components.project import open_project
from components.serving.engine import Engine
from tests.benchmarks.load import Load, Told, listen, percentile, press, seconds
from tests.benchmarks.row import Row
from tests.benchmarks.serve import MILLI, bodies
from tests.benchmarks.site import DRAW, MNIST, publish, serving

STREAMS, TOKENS, SECONDS = 16, 100, 20.0
COMPLETE = "/v1/completions"
CHARACTERS = "".join(map(chr, range(32, 95)))


def run(project: Path) -> list[Row]:
    """A GPT of 0.8 million weights and the plain diffusion model, both fresh, behind one server."""
    where = open_project(project)
    publish(where, "mnist", Diffusion(), MNIST)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer("characters", [CHARACTERS], 0, chat=False)
        tokenizer.save(Path(folder))
        shape = Shape(data=(128,), vocabulary=tokenizer.vocabulary, prompt=(128, tokenizer.vocabulary))
        publish(where, "tales", GPT(layers=4, heads=4, width=128), shape, assets=Path(folder))
    folders = {product: where.settings.home / f"fresh-{product}-1" for product in ("mnist", "tales")}
    with serving(where, ["mnist", "tales"]) as url:
        text, pictures = told(url), drawn(url)
    return [*text, *pictures_alone(folders["mnist"], *pictures)]


def told(url: str) -> list[Row]:
    """Tokens a second and the time to the first one, of 16 streams and of one."""
    asyncio.run(talk(url, 1, 1.0))
    single, many = (asyncio.run(talk(url, count, SECONDS)) for count in (1, STREAMS))
    one, all_of = (rate(found) for found in (single, many))
    first = sorted(stream.first - stream.began for stream in many)
    waits = f"p50 {percentile(first, 0.5) * MILLI:.0f}, p99 {percentile(first, 0.99) * MILLI:.0f} ms"
    return [
        Row(
            f"GPT of 0.8M over HTTP, {STREAMS} streams against one by one",
            f"{all_of / one:.1f}× ({all_of:,.0f} tokens/s; {one:,.0f} one by one); to the first token {waits}",
            "≥ 5×",
            {
                "ratio": all_of / one,
                "first_p50": percentile(first, 0.5),
                "first_p99": percentile(first, 0.99),
            },
        )
    ]


async def talk(url: str, streams: int, usual: float) -> list[Told]:
    """`streams` clients, each asking for the next text when it has read the last."""
    end, seeds, found = time.perf_counter() + seconds(usual), itertools.count(), list[Told]()

    async def client() -> None:
        while time.perf_counter() < end:
            heard = await listen(f"{url}{COMPLETE}", text(next(seeds)))
            assert heard is not None
            found.append(heard)

    await asyncio.gather(*(client() for _ in range(streams)))
    return found


def text(seed: int) -> dict[str, object]:
    """A request for a stream that says how many tokens it had."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": "tales", "prompt": "ONCE UPON", "max_tokens": TOKENS, "seed": seed, **options}


def rate(found: list[Told]) -> float:
    """Tokens a second from the first request to the last answer."""
    took = max(stream.ended for stream in found) - min(stream.began for stream in found)
    return sum(stream.tokens for stream in found) / took


def drawn(url: str) -> tuple[float, float]:
    """Pictures a second of 16 connections and of one."""
    wanted: Iterator[dict[str, object]] = ({"model": "mnist", **body} for body in bodies())

    def speed(connections: int, usual: float) -> float:
        began, end = time.perf_counter(), time.perf_counter() + seconds(usual)
        load: Load = asyncio.run(
            press(f"{url}{DRAW}", wanted, connections, lambda: time.perf_counter() > end)
        )
        assert not load.failed
        return len(load.answers) / (time.perf_counter() - began)

    speed(1, 1.0)
    return speed(STREAMS, SECONDS), speed(1, SECONDS)


def pictures_alone(artifact: Path, many: float, one: float) -> list[Row]:
    """The row of pictures, also beside one row at a time in this process, which a server would do without batches."""
    model = dataclasses.replace(load(artifact), width=1)
    engine = Engine(model)
    took, end = list[float](), time.perf_counter() + seconds(SECONDS)
    while time.perf_counter() < end:
        began = time.perf_counter()
        engine.submit(Requests(seed=torch.tensor([len(took)]))).result()
        took.append(time.perf_counter() - began)
    engine.close()
    alone = 1 / statistics.median(took)
    base = max(one, alone)
    said = f"{many / base:.1f}× ({many:.1f}/s; one after the other {one:.1f}, alone in process {alone:.1f})"
    return [
        Row(
            f"diffusion on MNIST's shape over HTTP, {STREAMS} connections against request at a time",
            said,
            "≥ 2×",
            {"ratio": many / base},
        )
    ]
