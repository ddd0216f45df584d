from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.judge import Features, features_for
from components.evaluation.measure_image import ImageMeasurement
from components.evaluation.measurement import Extent, Measured, Subject
from components.families.family import Batch, Requests, Shape
from tests.components.evaluation.pictures import COLOURS, shapes


def silent(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def cache(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def judge(dataset: Dataset, cache: Path) -> Features:
    return features_for(dataset, cache, silent)


def measured(dataset: Dataset, cache: Path, subject: Subject, samples: int = 240) -> Measured:
    return ImageMeasurement(dataset, cache, Extent(samples), silent).measure(subject, silent)


class Copyist:
    """Draws a test picture of the asked class, or of the next one for a share of the requests."""

    def __init__(self, dataset: Dataset, wrong_from: int = 4) -> None:
        test = dataset.whole("test")
        assert test.label is not None
        self.test, self.label, self.wrong_from = test.data, test.label, wrong_from
        self.seen: list[Tensor] = []

    def sample(self, requests: Requests, width: int) -> Tensor:
        assert requests.label is not None
        self.seen.append(requests.label)
        wanted = (requests.label + (requests.label >= self.wrong_from)) % len(COLOURS)
        places = [
            self._place(int(label), int(seed)) for label, seed in zip(wanted, requests.seed, strict=True)
        ]
        return self.test[places]

    def _place(self, label: int, seed: int) -> int:
        own = (self.label == label).nonzero().flatten()
        return int(own[seed % len(own)])


def test_real_pictures_of_the_asked_class_have_the_judges_own_accuracy(
    dataset: Dataset, cache: Path, judge: Features
) -> None:
    subject = Copyist(dataset)
    found = measured(dataset, cache, Subject(subject.sample, lambda batch: None))
    assert judge.accuracy is not None
    assert found.reference["class_accuracy"].value == pytest.approx(judge.accuracy)
    assert found.metrics["class_accuracy"].value == pytest.approx(judge.accuracy, abs=0.03)
    assert found.metrics["class_accuracy"].low < 1.0
    assert found.baseline["class_accuracy"].value < 0.5
    assert list(found.metrics)[-1] == "class_accuracy"
    assert "caption_reciprocal_rank" not in found.metrics


def test_a_wrong_class_is_not_recognised_and_labels_have_the_splits_shares(
    dataset: Dataset, cache: Path, judge: Features
) -> None:
    subject = Copyist(dataset, wrong_from=3)
    found = measured(dataset, cache, Subject(subject.sample, lambda batch: None))
    assert found.metrics["class_accuracy"].value == pytest.approx(0.75 * (judge.accuracy or 0), abs=0.03)
    asked = torch.cat(subject.seen)[:240]
    assert torch.bincount(asked).tolist() == [60, 60, 60, 60]


def test_the_picture_has_a_named_row_a_class(dataset: Dataset, cache: Path, judge: Features) -> None:
    found = measured(dataset, cache, Subject(Copyist(dataset).sample, lambda batch: None))
    picture = Pillow.open(io.BytesIO(found.files["samples.png"])).convert("RGB")
    cell = 12 * 4 + 2
    assert picture.height == 4 * cell + 2
    left = picture.width - (10 * cell + 2)
    assert left > 30
    names = [picture.crop((0, row * cell, left, (row + 1) * cell)) for row in range(4)]
    assert all(min(name.convert("L").tobytes()) < 100 for name in names), "each row has its name"
    blue = picture.crop((left, 2 * cell, picture.width, 3 * cell)).resize((1, 1), Pillow.Resampling.BOX)
    assert max(range(3), key=blue.getpixel((0, 0)).__getitem__) == 2


def test_a_free_model_is_asked_for_no_class(dataset: Dataset, cache: Path, judge: Features) -> None:
    free = dataclasses.replace(dataset, shape=Shape(data=dataset.shape.data))

    def sample(requests: Requests, width: int) -> Tensor:
        assert requests.label is None
        return dataset.whole("test").data[requests.seed % 120]

    found = measured(free, cache, Subject(sample, lambda batch: None), samples=120)
    assert "class_accuracy" not in found.metrics
    assert found.metrics["judge_frechet_distance"].value == pytest.approx(0, abs=1e-6)


def test_likelihoods_are_named_by_what_they_are_of(dataset: Dataset, cache: Path, judge: Features) -> None:
    def nats(batch: Batch) -> Tensor:
        return batch.data.flatten(1).sum(1) + 500

    def weighed(batch: Batch, draws: int) -> Tensor:
        assert draws == 500
        return nats(batch) - 3

    subject = Subject(Copyist(dataset).sample, nats, weighed)
    plain = measured(dataset, cache, subject)
    assert list(plain.metrics)[-2:] == ["negative_elbo_nats", "importance_weighted_nats"]
    elbo, tight = plain.metrics["negative_elbo_nats"], plain.metrics["importance_weighted_nats"]
    assert elbo.value - tight.value == pytest.approx(3, abs=1e-3)
    binary = measured(dataset, cache, dataclasses.replace(subject, binarized=True))
    assert list(binary.metrics)[-2:] == [
        "binarized_negative_elbo_nats",
        "binarized_importance_weighted_nats",
    ]
