"""95% intervals: of a share, of a mean, and of a statistic that was resampled."""

from __future__ import annotations

from statistics import NormalDist
from typing import TypeAlias

import torch
from torch import Tensor

Interval: TypeAlias = tuple[float, float, float]
"""A value, and where its 95% interval begins and ends."""
LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


def share(hits: Tensor) -> Interval:
    """The mean of `hits` [N], each in [0, 1], with Wilson's score interval (1927).

    Values between 0 and 1 vary less than hits and misses do, so for them the interval is too wide, never
    too narrow; it does not collapse at a share of 0 or 1.
    """
    rows, mean = len(hits), float(hits.double().mean())
    centre = (mean + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z / (1 + Z**2 / rows) * (mean * (1 - mean) / rows + Z**2 / (4 * rows**2)) ** 0.5
    return mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def average(values: Tensor) -> Interval:
    """The mean of `values` [N], N > 1, with the normal interval by their standard error."""
    mean = float(values.double().mean())
    half = Z * float(values.double().std()) / len(values) ** 0.5
    return mean, mean - half, mean + half


def resampled(value: float, draws: Tensor) -> Interval:
    """`value` with the 95% range of the bootstrap `draws` [B] moved so that their mean lies on `value`.

    A statistic that is biased by few rows (the Fréchet distance) is biased again in every resample; the move
    takes the second bias away. What remains is how far the statistic varies at this number of rows: its own
    bias stays in it.
    """
    edges = torch.tensor([0.5 - LEVEL / 2, 0.5 + LEVEL / 2], dtype=torch.float64)
    low, high = (torch.quantile(draws.double(), edges) - draws.double().mean() + value).tolist()
    return value, min(value, low), max(value, high)


def positive(interval: Interval) -> Interval:
    """The interval of what is never below 0."""
    value, low, high = interval
    return value, max(0.0, low), high
