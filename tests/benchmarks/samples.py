"""A WaveNet of 20 and of 30 layers: a sample with cached layers beside one that is computed anew from all it hears.

Both in turn, in one run, by the CPU time of one thread; the second is one forward over the receptive field, of which
the last logits are taken, as a generator without a cache computes each sample. Also what a second of sound takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from components.families.family import Requests, Shape
from components.families.sampling import Slots
from components.families.wavenet import LEVELS, RUN, SoundState, WaveNet, network_of
from components.train.step import networks_for
from tests.benchmarks.row import Row

RATE, ROUNDS, TURNS = 8000, 7, 4
WANTED = {(20, 1): "60×", (30, 1): "48×", (20, 16): "221×"}
"""What a first sketch of cached layers gave, by layers and rows."""


def run(project: Path) -> list[Row]:
    """One and 16 rows of 20 layers, one of 30."""
    torch.set_num_threads(1)
    return [row for layers, rows in WANTED for row in compare(layers, rows)]


def compare(layers: int, rows: int) -> list[Row]:
    """The ratio of the two, and the seconds that a second of sound takes."""
    family = WaveNet(stacks=layers // 10)
    shape = Shape(data=(RATE,))
    networks = networks_for(family, shape, 0)
    networks["decoder"].eval()
    tokens = torch.randint(LEVELS, (rows, family.stacks * (2**family.layers - 1) + 1))
    slots = opened(family, networks, rows)
    pairs = [(timed(lambda: anew(networks, tokens), 1), timed(slots.advance, TURNS)) for _ in range(ROUNDS)]
    ratio = statistics.median(long / (short / RUN) for long, short in pairs)
    cached = statistics.median(short / RUN for _, short in pairs)
    plain = statistics.median(long for long, _ in pairs)
    name = f"WaveNet of {layers} layers of {family.width}, {rows} row{'s' * (rows > 1)}"
    said = (
        f"{ratio:.0f}× ({1000 * cached:.2f} ms; {1000 * plain:.0f} ms anew, over {tokens.shape[1]:,} samples)"
    )
    pace = cached * RATE / rows
    return [
        Row(
            f"a sample with cached layers beside one computed anew, {name}",
            said,
            WANTED[layers, rows],
            {"ratio": ratio},
        ),
        Row(
            f"CPU seconds for a second of sound at 8 kHz, {name}", f"{pace:.2f}", "stated", {"seconds": pace}
        ),
    ]


def opened(family: WaveNet, networks: dict[str, nn.Module], rows: int) -> Slots:
    """Rows that are being drawn, warm."""
    requests = Requests(seed=torch.arange(rows))
    slots = Slots(family, networks, rows, requests)
    slots.admit(range(rows), requests)
    slots.advance()
    assert isinstance(slots.state, SoundState)
    assert (ROUNDS * TURNS + 1) * RUN < RATE, "no row ends meanwhile"
    return slots


@torch.inference_mode()
def anew(networks: dict[str, nn.Module], tokens: torch.Tensor) -> torch.Tensor:
    """The logits of one sample of each row, from all that it hears."""
    network = network_of(networks)
    return network.head(network.features(tokens, None)[:, -1])


def timed(call: Callable[[], object], times: int) -> float:
    """Seconds of one of `times` calls, of the one thread's CPU, so that other work on the machine does not count."""
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times
