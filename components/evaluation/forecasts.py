"""How good forecasts are: quantile loss, scaled errors, coverage; and the naive forecasts that stand beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import torch

from components.evaluation.intervals import Interval, positive, resampled
from components.modalities.tables import Values

LEVELS = tuple(level / 10 for level in range(1, 10))
"""The quantiles that are scored, as in Chronos (arXiv:2403.07815, section 5.3); the outer two bound 80%."""
RESAMPLES = 1000
LEAST = 1e-12
Sums: TypeAlias = Callable[[Mapping[str, float]], float]


@dataclass(frozen=True)
class Forecasts:
    """Quantiles [N, Q, H] of N windows at `LEVELS`, beside the `truth` [N, H] and the `context` [N, C]."""

    quantiles: Values
    truth: Values
    context: Values
    season: int

    @property
    def median(self) -> Values:
        """[N, H]."""
        found: Values = self.quantiles[:, LEVELS.index(0.5)]
        return found

    def parts(self) -> dict[str, Values]:
        """What the metrics of each window are made of, [N] each; see `scores`."""
        above = self.truth[:, None] - self.quantiles
        levels = np.array(LEVELS)[:, None]
        loss = 2 * np.maximum(levels * above, (levels - 1) * above).mean(1).sum(1)
        usual = usual_step(self.context, self.season)
        error = np.abs(self.truth - self.median).mean(1) / np.where(usual > LEAST, usual, 1.0)
        inside = (self.quantiles[:, 0] <= self.truth) & (self.truth <= self.quantiles[:, -1])
        return {
            "loss": loss,
            "magnitude": np.abs(self.truth).sum(1),
            "error": np.where(usual > LEAST, error, 0.0),
            "scaled": (usual > LEAST).astype(np.float64),
            "inside": inside.mean(1),
            "one": np.ones(len(loss)),
        }


def usual_step(context: Values, season: int) -> Values:
    """The mean magnitude of the differences a season apart, [N]: what MASE is scaled by (Hyndman & Koehler 2006)."""
    found: Values = np.abs(context[:, season:] - context[:, :-season]).mean(1)
    return found


SCORES: Mapping[str, Sums] = {
    "weighted_quantile_loss": lambda sums: sums["loss"] / max(sums["magnitude"], LEAST),
    "mase": lambda sums: sums["error"] / max(sums["scaled"], LEAST),
    "coverage_80_error": lambda sums: abs(sums["inside"] / sums["one"] - 0.8),
}
"""The metrics out of the sums of `Forecasts.parts`: the quantile loss, twice its mean over the levels, as a share of
the magnitude of the truth; the absolute error of the median by the context's own seasonal steps; how far the share of
values inside the 80% interval is from 0.8."""


def scores(forecasts: Forecasts, blocks: Values, seed: int) -> dict[str, Interval]:
    """Each of `SCORES` with its interval by resampling blocks, windows of one time as `blocks` [N] tells."""
    sums = block_sums(forecasts.parts(), blocks)
    return {name: positive(interval(score, sums, seed)) for name, score in SCORES.items()}


def block_sums(parts: Mapping[str, Values], blocks: Values) -> dict[str, Values]:
    """The sum of each part over every block, [B]."""
    _, place = np.unique(blocks, return_inverse=True)
    return {name: np.bincount(place, values).astype(np.float64) for name, values in parts.items()}


def interval(score: Sums, sums: Mapping[str, Values], seed: int) -> Interval:
    """A score of all blocks, with its 95% interval by resampling them."""
    count = len(next(iter(sums.values())))
    random = np.random.default_rng(seed)
    weights = random.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    value = score({name: float(values.sum()) for name, values in sums.items()})
    drawn = {name: weights @ values for name, values in sums.items()}
    draws = [
        score({name: float(values[draw]) for name, values in drawn.items()}) for draw in range(RESAMPLES)
    ]
    return resampled(value, torch.tensor(draws, dtype=torch.float64))


@dataclass(frozen=True)
class Normal:
    """Forecasts that are normal distributions: mean and deviation [N, H]."""

    mean: Values
    deviation: Values

    @property
    def quantiles(self) -> Values:
        """[N, Q, H] at `LEVELS`."""
        z = np.array([NormalDist().inv_cdf(level) for level in LEVELS])[:, None]
        found: Values = self.mean[:, None] + z * self.deviation[:, None]
        return found

    def nats(self, truth: Values) -> Values:
        """−log of the density of `truth` [N, H], in nats, [N, H]."""
        error = (truth - self.mean) / self.deviation
        found: Values = 0.5 * np.square(error) + np.log(self.deviation) + 0.5 * np.log(2 * np.pi)
        return found


def naive(context: Values, horizon: int, season: int) -> Normal:
    """The value a season before, and a deviation that grows with the seasons ahead.

    Hyndman & Athanasopoulos 2021, Forecasting: Principles and Practice, 5.5: σ √(k + 1), where σ is that of the
    context's own errors and k the whole seasons before the step. A `season` of 1 repeats the last value.
    """
    steps = np.arange(horizon)
    mean = context[:, context.shape[1] - season + steps % season]
    return Normal(mean, _deviation(context, season) * np.sqrt(steps // season + 1.0))


def step_by_step(context: Values, truth: Values, season: int) -> Normal:
    """The same walk where each value of `truth` [N, H] is known to the next: the product of these is its joint density.

    That is what the likelihood of a family is, whose every value is drawn after those before it.
    """
    every = np.concatenate([context, truth], axis=1)
    first = context.shape[1] - season
    mean = every[:, first : first + truth.shape[1]]
    return Normal(mean, np.broadcast_to(_deviation(context, season), truth.shape))


def _deviation(context: Values, season: int) -> Values:
    """The root mean square of the differences a season apart, [N, 1]; a little where there are none."""
    errors = context[:, season:] - context[:, :-season]
    found: Values = np.maximum(np.sqrt(np.square(errors).mean(1)), 1e-6 * (1 + np.abs(context).mean(1)))
    return found[:, None]
