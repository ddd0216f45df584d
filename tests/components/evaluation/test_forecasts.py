"""Scores of forecasts and distances of windows, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from components.evaluation.forecasts import LEVELS, Forecasts, naive, scores, step_by_step
from components.evaluation.windows import (
    Windows,
    autocorrelation_distance,
    discriminative_score,
    marginal_distance,
)


def exact(truth: np.ndarray, off: float = 0.0) -> np.ndarray:  # type: ignore[type-arg]
    return np.repeat((truth + off)[:, None], len(LEVELS), axis=1)


def test_quantile_loss_is_the_error_of_a_point_and_mase_is_by_seasons() -> None:
    truth = np.full((4, 3), 10.0)
    context = np.tile([0.0, 1.0, 2.0, 3.0], (4, 2))
    found = scores(Forecasts(exact(truth, 1.0), truth, context, 1), np.arange(4.0), 0)
    assert found["weighted_quantile_loss"][0] == pytest.approx(0.1), "twice the pinball loss at ½ is |error|"
    steps = np.abs(np.diff(context[0])).mean()
    assert found["mase"][0] == pytest.approx(1 / steps)
    assert found["coverage_80_error"][0] == pytest.approx(0.8)
    assert min(low for _, low, _ in found.values()) >= 0
    perfect = scores(Forecasts(exact(truth), truth, context, 1), np.arange(4.0), 0)
    assert perfect["weighted_quantile_loss"] == (0.0, 0.0, 0.0)
    assert perfect["coverage_80_error"][0] == pytest.approx(0.2)


def test_the_right_distribution_has_the_least_loss_and_covers() -> None:
    random = np.random.default_rng(0)
    truth = random.normal(3.0, 2.0, (400, 5))
    context = random.normal(3.0, 2.0, (400, 20))
    blocks = np.arange(400.0)
    losses = {}
    for spread in (0.5, 2.0, 8.0):
        quantiles = np.tile(norm(3, spread).ppf(LEVELS)[None, :, None], (400, 1, 5))
        losses[spread] = scores(Forecasts(quantiles, truth, context, 1), blocks, 0)
    loss = {spread: found["weighted_quantile_loss"] for spread, found in losses.items()}
    assert loss[2.0][2] < min(loss[0.5][1], loss[8.0][1]), "beyond the intervals"
    value, low, high = losses[2.0]["coverage_80_error"]
    assert low <= value <= high
    assert value < 0.03


def test_intervals_are_wide_where_blocks_are_few() -> None:
    random = np.random.default_rng(0)
    level = np.repeat(random.normal(0, 1, 10), 20)[:, None]
    truth, context = 5 + level + np.zeros((200, 4)), random.normal(5, 1, (200, 20))
    forecast = Forecasts(exact(np.full((200, 4), 5.0)), truth, context, 1)
    each, together = (
        scores(forecast, blocks.astype(np.float64), 0)["weighted_quantile_loss"]
        for blocks in (np.arange(200), np.repeat(np.arange(10), 20))
    )
    assert each[0] == pytest.approx(together[0])
    assert together[2] - together[1] > 2 * (each[2] - each[1])


def test_naive_forecasts_repeat_the_last_season_and_widen() -> None:
    context = np.tile(np.arange(4.0), 6)[None] + np.random.default_rng(0).normal(0, 0.1, (1, 24))
    found = naive(context, 10, 4)
    assert np.allclose(found.mean[0], np.tile(context[0, -4:], 3)[:10])
    assert np.allclose(found.deviation[0, [0, 4, 8]] / found.deviation[0, 0], np.sqrt([1, 2, 3]))
    truth = found.mean + found.deviation
    assert np.allclose(found.nats(truth), -norm(found.mean, found.deviation).logpdf(truth))
    assert np.allclose(naive(context, 3, 1).mean, context[0, -1])


def test_the_joint_density_of_a_walk_is_that_of_its_steps() -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(0, 1, (200, 60)), axis=1)
    context, truth = walk[:, :40], walk[:, 40:]
    joint = step_by_step(context, truth, 1).nats(truth).mean()
    assert joint == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=0.05), "the entropy of a step"
    assert joint < naive(context, 20, 1).nats(truth).mean() - 0.5, "which values by themselves do not reach"
    seasonal = step_by_step(context, truth, 4)
    assert np.array_equal(seasonal.mean, walk[:, 36:56])


def test_windows_of_one_kind_are_near_and_of_another_far() -> None:
    random = np.random.default_rng(0)

    def walk(count: int) -> Windows:
        return Windows(np.cumsum(random.normal(0, 1, (count, 40)), axis=1))

    real, same, noise = walk(150), walk(150), Windows(random.normal(0, 1, (150, 40)))
    for distance in (marginal_distance, discriminative_score):
        near, far = distance(same, real, 0), distance(noise, real, 0)
        assert near[0] < far[1]
        assert near[1] <= near[0] <= near[2]
    assert autocorrelation_distance(same, real, 12, 0)[2] < autocorrelation_distance(noise, real, 12, 0)[1]
    assert discriminative_score(noise, real, 0)[0] > 0.4
    assert discriminative_score(same, real, 0)[0] < 0.15
