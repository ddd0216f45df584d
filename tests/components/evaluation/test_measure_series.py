"""A small GPT that learned two waves, measured beside the naive forecast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.artifact import Model
from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation.measure_series import FUTURES, SeriesMeasurement
from components.evaluation.measurement import Extent, Measured
from components.evaluation.subject import subject_of
from components.evaluation.validation import validation
from components.modalities.series import Series
from tests.components.waves import learned, prepared


def say(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("measured") / "project", split={"val": 0.1, "test": 0.3})


@pytest.fixture(scope="module")
def model(dataset: Dataset) -> Model:
    return learned(dataset)


@pytest.fixture(scope="module")
def measured(dataset: Dataset, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    cache = tmp_path_factory.mktemp("cache")
    return SeriesMeasurement(dataset, cache, Extent(), say).measure(subject_of(model), say)


def test_what_learned_the_waves_beats_noise_and_keeps_to_the_baseline(measured: Measured) -> None:
    own, baseline = measured.metrics, measured.baseline
    assert next(iter(own)) == "weighted_quantile_loss", "the first is the primary metric"
    assert set(own) == set(Series.metrics) == set(baseline)
    assert own["weighted_quantile_loss"].value < 1.1 * baseline["weighted_quantile_loss"].value
    assert own["mase"].value < 1.1 * baseline["mase"].value
    assert own["nats_per_value"].value < baseline["nats_per_value"].value + 0.6, (
        "to which such waves are made"
    )
    assert own["autocorrelation_distance"].high < baseline["autocorrelation_distance"].low
    assert set(measured.reference) == {
        "autocorrelation_distance",
        "marginal_distance",
        "discriminative_score",
    }
    for metric in (*own.values(), *baseline.values()):
        assert metric.low <= metric.value <= metric.high
    assert measured.facts["naive_mase"]["baseline"] > baseline["mase"].value, "the season matters"


def test_the_pictures_are_there(measured: Measured, tmp_path: Path) -> None:
    assert set(measured.files) == {"forecasts.png", "samples.png"}
    for content in measured.files.values():
        (tmp_path / "it.png").write_bytes(content)
        levels = np.asarray(Image.open(tmp_path / "it.png"))
        assert min(levels.shape[:2]) > 150
        assert levels.std() > 5


def test_it_is_the_same_again_and_says_how_it_measured(
    dataset: Dataset, model: Model, measured: Measured
) -> None:
    measurement = SeriesMeasurement(dataset, Path(), Extent(), say)
    again = measurement.measure(subject_of(model), say)
    assert again.metrics == measured.metrics
    assert measurement.protocol["held_out"] == 2 * 15
    assert measurement.protocol["samples"] == 30 * FUTURES
    assert measurement.protocol["baseline"] == "seasonal naive, 8 steps"
    fewer = SeriesMeasurement(dataset, Path(), Extent(160), say)
    assert fewer.protocol["held_out"] == 8
    with pytest.raises(UserError, match="draw at least 100"):
        SeriesMeasurement(dataset, Path(), Extent(10), say)


def test_a_search_looks_at_val(dataset: Dataset) -> None:
    measurement = SeriesMeasurement(validation(dataset), Path(), Extent(), say)
    assert measurement.protocol["held_out"] == 2 * 5
    assert int(measurement.start.max()) + 32 <= 280
