"""How well a model predicts held-out text: bits a character and perplexity a token, over all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from components.evaluation.intervals import Interval, resampled
from components.evaluation.report import Metric
from components.modalities.text import Text

RESAMPLES = 1000


def likelihood(nats: Tensor, tokens: Tensor, characters: Tensor, seed: int) -> dict[str, Metric]:
    """Bits a character and perplexity, of rows with `nats` [N] over `tokens` [N] that stand for `characters` [N].

    Both are ratios of sums over rows. Tokens of one row depend on each other, so whole rows are resampled, with
    what they count (Efron & Tibshirani 1993, chapter 8); a row is a document, or a window of a long one.
    """
    bits, rate = rates(nats, [characters * math.log(2), tokens], seed)
    value, low, high = (math.exp(found) for found in rate)
    return {
        "bits_per_character": Metric(*bits, Text.metrics["bits_per_character"]),
        "perplexity": Metric(value, low, high, Text.metrics["perplexity"]),
    }


def rates(nats: Tensor, counts: Sequence[Tensor], seed: int) -> list[Interval]:
    """The sum of `nats` [N] over the sum of each of `counts` [N], with intervals of whole rows that are resampled."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.stack([nats.double(), *(count.double() for count in counts)], 1)
    total = values.sum(0)
    draws = torch.stack(
        [
            values[torch.randint(len(values), (len(values),), generator=generator)].sum(0)
            for _ in range(RESAMPLES)
        ]
    ).clamp(min=1e-12)
    return [
        resampled(float(total[0] / total[place]), draws[:, 0] / draws[:, place])
        for place in range(1, values.shape[1])
    ]
