from __future__ import annotations

import pytest
import scipy.linalg
import torch
from torch import Tensor

from components.evaluation.image import (
    NEIGHBOURS,
    Moments,
    eight_bit,
    frechet_distance,
    held_out,
    independent_pixels,
    measure,
    moments,
    neighbourhoods,
    radii,
)
from components.families.family import Batch
from components.modalities.image import Image


def normal(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_frechet_distance_of_two_gaussians_is_the_closed_form() -> None:
    one = Moments(torch.tensor([0.0, 3.0]).double(), torch.diag(torch.tensor([1.0, 4.0])).double())
    other = Moments(torch.tensor([1.0, 1.0]).double(), torch.diag(torch.tensor([9.0, 25.0])).double())
    assert frechet_distance(one, other) == pytest.approx((1 + 4) + (1 - 3) ** 2 + (2 - 5) ** 2)


def test_the_frechet_distance_is_that_of_a_general_matrix_root() -> None:
    one, other = moments(normal(50, 6, 1) @ normal(6, 6, 2)), moments(normal(40, 6, 3) @ normal(6, 6, 4) + 1)
    root = scipy.linalg.sqrtm((one.covariance @ other.covariance).numpy()).real
    shift = (one.mean - other.mean).square().sum()
    expected = shift + (one.covariance + other.covariance).trace() - 2 * root.trace()
    assert frechet_distance(one, other) == pytest.approx(float(expected), rel=1e-9)
    assert frechet_distance(one, other) == pytest.approx(frechet_distance(other, one), rel=1e-9)


def test_identical_rows_are_at_distance_zero_and_a_shift_adds_its_square() -> None:
    rows = normal(200, 8, 5)
    assert frechet_distance(moments(rows), moments(rows.flip(0))) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(moments(rows), moments(rows + 2)) == pytest.approx(8 * 4)


def brute_force(real: list[list[float]], samples: list[list[float]]) -> tuple[float, float, float, float]:
    """The definitions, word by word, for as many samples as real rows."""

    def distance(one: list[float], other: list[float]) -> float:
        return sum((left - right) ** 2 for left, right in zip(one, other, strict=True)) ** 0.5

    def reach(rows: list[list[float]]) -> list[float]:
        return [
            sorted(distance(row, other) for place, other in enumerate(rows) if place != own)[NEIGHBOURS - 1]
            for own, row in enumerate(rows)
        ]

    around_real, around_samples = reach(real), reach(samples)
    balls = [
        sum(distance(sample, row) <= size for row, size in zip(real, around_real, strict=True))
        for sample in samples
    ]
    recalled = [
        any(distance(row, sample) <= size for sample, size in zip(samples, around_samples, strict=True))
        for row in real
    ]
    covered = [
        any(distance(row, sample) <= size for sample in samples)
        for row, size in zip(real, around_real, strict=True)
    ]
    count = len(samples)
    precision = sum(ball > 0 for ball in balls) / count
    return precision, sum(balls) / (NEIGHBOURS * count), sum(recalled) / len(real), sum(covered) / len(real)


def test_precision_recall_density_and_coverage_are_those_of_brute_force() -> None:
    real, samples = normal(40, 2, 6), 0.7 * normal(120, 2, 7) + 1
    found = neighbourhoods(real, radii(real), samples)
    parts = [brute_force(real.tolist(), part.tolist()) for part in torch.split(samples, 40)]
    expected = torch.tensor(parts).double().mean(0).tolist()
    values = [found.precision, found.density, found.recall, found.coverage]
    assert [float(value.mean()) for value in values] == pytest.approx(expected)
    assert all(0.1 < value < 1 for value in expected)


def test_samples_of_one_mode_are_precise_but_recall_and_cover_half() -> None:
    left, right = normal(30, 2, 8), normal(30, 2, 9) + 100
    metrics = measure("x", held_out(torch.cat([left, right]), 0), normal(60, 2, 10), 0)
    assert metrics["x_precision"].value > 0.8
    assert metrics["x_recall"].value == pytest.approx(0.5, abs=0.05)
    assert metrics["x_coverage"].value == pytest.approx(0.5, abs=0.05)


def test_fewer_samples_than_real_rows_are_measured_together() -> None:
    real = normal(90, 2, 11)
    found = neighbourhoods(real, radii(real), normal(20, 2, 12))
    assert (len(found.precision), len(found.recall)) == (20, 90)


def test_metrics_are_named_by_their_features_and_directed_by_the_modality() -> None:
    real = held_out(normal(60, 3, 13), 0)
    metrics = measure("judge", real, normal(50, 3, 14), 0)
    assert next(iter(metrics)) == "judge_frechet_distance"
    assert {name.removeprefix("judge_"): metric.better for name, metric in metrics.items()} == {
        name: Image.metrics[name]
        for name in ("frechet_distance", "precision", "recall", "density", "coverage")
    }
    assert all(metric.low <= metric.value <= metric.high for metric in metrics.values())
    assert metrics == measure("judge", real, normal(50, 3, 14), 0)


def test_eight_bit_values_are_those_that_real_rows_have() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)
    real = Image(None).batch({"image": levels}).data
    assert torch.equal(eight_bit(real), real)
    assert torch.equal(eight_bit(real + 0.003), real)
    assert torch.equal(eight_bit(torch.tensor([-3.0, 3.0])), torch.tensor([-1.0, 1.0]))


def test_the_trivial_model_has_each_pixels_mean_and_deviation_and_no_more() -> None:
    base = 0.2 * normal(4000, 1, 15).float()
    data = (torch.cat([base, base - 0.5], 1)).view(4000, 1, 1, 2)
    train = [Batch(data=part, length=torch.ones(len(part))) for part in torch.split(data, 300)]
    drawn = torch.cat(list(independent_pixels(train, [2500, 1500], 0))).flatten(1)
    assert drawn.mean(0).tolist() == pytest.approx([0, -0.5], abs=0.02)
    assert drawn.std(0).tolist() == pytest.approx([0.2, 0.2], abs=0.01)
    assert abs(float(torch.corrcoef(drawn.T)[0, 1])) < 0.1
