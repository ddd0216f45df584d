"""How like real windows drawn ones are: by autocorrelation, by values, and by whether a classifier tells them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from components.evaluation.intervals import Interval, positive, resampled, share
from components.modalities.tables import Values

RESAMPLES = 200
TREES = 200
LEAST_DEVIATION = 1e-12
Distance: TypeAlias = Callable[[Values, Values], float]


@dataclass(frozen=True)
class Windows:
    """Windows [N, W], each by the mean and the deviation that its channel has in training."""

    values: Values

    def acf(self, lags: int) -> Values:
        """The autocorrelation of each window at the lags 1 … `lags`, [N, lags]; 0 where a window is constant."""
        centred = self.values - self.values.mean(1, keepdims=True)
        power = np.square(centred).sum(1)
        found = [(centred[:, lag:] * centred[:, :-lag]).sum(1) for lag in range(1, lags + 1)]
        ratios: Values = np.stack(found, 1) / np.maximum(power, LEAST_DEVIATION)[:, None]
        return ratios

    def features(self) -> Values:
        """What the classifier sees: the values, their differences, and the magnitudes of their spectrum."""
        spectrum = np.abs(np.fft.rfft(self.values - self.values.mean(1, keepdims=True), axis=1))
        return np.concatenate([self.values, np.diff(self.values, axis=1), spectrum], axis=1)


def autocorrelation_distance(drawn: Windows, real: Windows, lags: int, seed: int) -> Interval:
    """The root mean square difference of the mean autocorrelations, over the lags."""
    return _resampled(drawn.acf(lags), real.acf(lags), _rms, seed)


def marginal_distance(drawn: Windows, real: Windows, seed: int) -> Interval:
    """The Wasserstein-1 distance of all values, in deviations of the channel."""
    return _resampled(drawn.values, real.values, _wasserstein, seed)


def discriminative_score(drawn: Windows, real: Windows, seed: int) -> Interval:
    """How far the accuracy of a classifier is from a coin's: |accuracy − ½|, 0 where nothing tells the two apart.

    After Yoon et al. 2019, "Time-series Generative Adversarial Networks", section 5, with a random forest in the
    place of their recurrent network: it learns one half of each and is asked about the other, both ways. Halves are in
    order, so that overlapping windows of real data lie on one side.
    """
    from sklearn.ensemble import RandomForestClassifier

    size = min(len(drawn.values), len(real.values))
    sets = [windows.features()[:size] for windows in (drawn, real)]
    halves = [slice(0, size // 2), slice(size // 2, size)]
    hits = []
    for train, test in (halves, halves[::-1]):
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1)
        forest.fit(*_labelled(sets, train))
        features, labels = _labelled(sets, test)
        hits.append(forest.predict(features) == labels)
    value, low, high = share(torch.from_numpy(np.concatenate(hits)).double())
    near = 0.0 if low <= 0.5 <= high else min(abs(low - 0.5), abs(high - 0.5))
    return abs(value - 0.5), near, max(abs(low - 0.5), abs(high - 0.5))


def _labelled(sets: list[Values], part: slice) -> tuple[Values, Values]:
    parts = [found[part] for found in sets]
    return np.concatenate(parts), np.repeat([0, 1], [len(found) for found in parts])


def _rms(one: Values, other: Values) -> float:
    return float(np.sqrt(np.square(one.mean(0) - other.mean(0)).mean()))


def _wasserstein(one: Values, other: Values) -> float:
    shares = np.linspace(0.0025, 0.9975, 400)
    return float(np.abs(np.quantile(one, shares) - np.quantile(other, shares)).mean())


def _resampled(one: Values, other: Values, distance: Distance, seed: int) -> Interval:
    """A distance of two sets of windows with the interval by resampling the windows of both."""
    random = np.random.default_rng(seed)
    draws = [
        distance(
            one[random.integers(0, len(one), len(one))], other[random.integers(0, len(other), len(other))]
        )
        for _ in range(RESAMPLES)
    ]
    return positive(resampled(distance(one, other), torch.tensor(draws, dtype=torch.float64)))
