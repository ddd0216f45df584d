"""Training steps of the GPT beside transformers' Llama of the same shape: forward, backward, clipping, AdamW."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from components.families.family import Batch, Shape
from components.families.gpt import GPT
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.benchmarks import partners
from tests.benchmarks.row import Row

VOCABULARY, ROUNDS, WARM = 65, 5, 2


@dataclass(frozen=True)
class Size:
    """A shape that both models take; a step has `rows` rows of `context` predictions."""

    name: str
    layers: int
    heads: int
    width: int
    hidden: int
    context: int
    rows: int
    steps: int


SIZES = (Size("0.8M", 4, 4, 128, 352, 128, 12, 20), Size("10M", 6, 6, 384, 1024, 256, 8, 3))


def run(project: Path) -> list[Row]:
    """Both models take turns; the median of the rounds' ratios counts."""
    rows = []
    for size in SIZES:
        for precision in ("fp32", "bf16"):
            ours, theirs = gpt_step(size, precision), llama_step(size, precision)
            what = f"training steps, GPT against transformers' Llama, {size.name}, {precision}"
            rows.append(compare(what, ours, theirs, size, "≥ 1×"))
    fast, slow = (gpt_step(SIZES[1], precision) for precision in ("bf16", "fp32"))
    rows.append(compare("training steps, GPT, bf16 against fp32, 10M", fast, slow, SIZES[1], "≥ 1.4×"))
    return rows


def compare(
    what: str, ours: Callable[[], object], theirs: Callable[[], object], size: Size, wanted: str
) -> Row:
    """How many times as fast `ours` is, in alternation."""
    pairs = [(seconds(ours, size.steps), seconds(theirs, size.steps)) for _ in range(WARM + ROUNDS)][WARM:]
    ratios = [two / one for one, two in pairs]
    rate = size.rows * size.context / statistics.median(one for one, _ in pairs)
    ratio = statistics.median(ratios)
    shown = ", ".join(f"{value:.2f}" for value in ratios)
    return Row(what, f"{ratio:.2f}× ({shown}), {rate:,.0f} tokens/s", wanted, {"ratio": ratio, "rate": rate})


def seconds(step: Callable[[], object], count: int) -> float:
    """The mean time of one step."""
    began = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - began) / count


def tokens(size: Size) -> Iterator[torch.Tensor]:
    """Random rows [N, context + 1]; their content does not change the work."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.randint(1, VOCABULARY, (size.rows, size.context + 1), generator=generator)


def gpt_step(size: Size, precision: str) -> Callable[[], object]:
    """Our own step, by the code that trains."""
    family = GPT(
        layers=size.layers,
        heads=size.heads,
        kv_heads=size.heads,
        width=size.width,
        hidden=size.hidden,
        qk_norm=False,
        optimizer="adamw",
    )
    shape = Shape(data=(size.context + 1,), vocabulary=VOCABULARY, prompt=(size.context + 1, VOCABULARY))
    networks = networks_for(family, shape, 0)
    options = TrainOptions(ema=0.0, clip=1.0, precision=precision)  # type: ignore[arg-type]
    trainee = build(family, networks, options, torch.device("cpu"), world=1)
    stream = tokens(size)
    length = torch.full((size.rows,), size.context + 1)
    return lambda: advance(trainee, Batch(data=next(stream), length=length), 0)


def llama_step(size: Size, precision: str) -> Callable[[], object]:
    """The same with transformers' model and torch's own pieces."""
    model = partners.llama(
        size.layers, size.heads, size.width, size.hidden, size.context + 1, VOCABULARY
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    stream = tokens(size)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = partners.surprise(model, next(stream))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
