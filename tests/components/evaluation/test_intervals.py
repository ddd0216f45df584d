from __future__ import annotations

import pytest
import torch

from components.evaluation.image import frechet_distance, moments, resamples
from components.evaluation.intervals import average, resampled, share


def covered(intervals: list[tuple[float, float, float]], truth: float) -> float:
    return sum(low <= truth <= high for _, low, high in intervals) / len(intervals)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.98])
def test_the_interval_of_a_share_covers_the_truth_and_is_not_idle(truth: float) -> None:
    draws = torch.rand(1000, 200, generator=torch.Generator().manual_seed(1)) < truth
    intervals = [share(row.double()) for row in draws]
    assert 0.92 <= covered(intervals, truth) <= 0.99


def test_the_interval_of_a_share_stays_open_at_the_ends() -> None:
    assert share(torch.ones(100))[:1] == (1.0,)
    assert 0.95 < share(torch.ones(100))[1] < 0.99
    assert share(torch.zeros(100))[2] == pytest.approx(1 - share(torch.ones(100))[1])


def test_the_interval_of_a_mean_covers_the_truth_and_is_not_idle() -> None:
    draws = torch.empty(1000, 150).exponential_(generator=torch.Generator().manual_seed(2))
    assert 0.91 <= covered([average(row) for row in draws], 1.0) <= 0.98


def test_the_interval_of_the_frechet_distance_covers_what_the_distance_is_at_this_number_of_rows() -> None:
    generator = torch.Generator().manual_seed(3)

    def distance_and_interval(seed: int) -> tuple[float, float, float]:
        real = torch.randn(80, 3, generator=generator, dtype=torch.float64)
        fake = 1.3 * torch.randn(120, 3, generator=generator, dtype=torch.float64) + 0.7
        pairs = zip(resamples(real, 2 * seed), resamples(fake, 2 * seed + 1), strict=True)
        draws = torch.tensor([frechet_distance(one, other) for one, other in pairs])
        return resampled(frechet_distance(moments(real), moments(fake)), draws)

    intervals = [distance_and_interval(seed) for seed in range(100)]
    expected = sum(value for value, _, _ in intervals) / len(intervals)
    assert all(low < value < high for value, low, high in intervals)
    assert 0.9 <= covered(intervals, expected) < 1.0


def test_a_bias_of_the_resamples_is_taken_away() -> None:
    spread = torch.linspace(-1, 1, 101)
    assert resampled(5.0, 5.0 + spread) == resampled(5.0, 7.0 + spread)
    assert resampled(5.0, 7.0 + spread) == pytest.approx((5.0, 4.05, 5.95))
