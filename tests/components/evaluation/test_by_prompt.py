from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.captions import Matcher, caption_judge, chance
from components.evaluation.measure_image import ImageMeasurement
from components.evaluation.measurement import Extent, Measured, Subject
from components.families.family import Requests, Task
from tests.components.evaluation.pictures import shapes

RANK = "caption_reciprocal_rank"


def silent(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found = shapes(tmp_path_factory.mktemp("data") / "captioned", captions=True)
    return dataclasses.replace(found, classes=(), shape=found.shape.narrowed(Task.PROMPT))


@pytest.fixture(scope="module")
def cache(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measurement(dataset: Dataset, cache: Path) -> ImageMeasurement:
    return ImageMeasurement(dataset, cache, Extent(240), silent)


class Painter:
    """Draws a test picture of the asked caption, or of another one."""

    def __init__(self, dataset: Dataset, shuffled: bool = False) -> None:
        self.test, self.shuffled = dataset.whole("test"), shuffled

    def sample(self, requests: Requests, width: int) -> Tensor:
        assert requests.prompt is not None
        assert self.test.prompt is not None
        assert requests.label is None
        same = (requests.prompt[:, None] == self.test.prompt[None]).all(2)
        places = same.int().argmax(1)
        if self.shuffled:
            generator = torch.Generator().manual_seed(1_000 + int(requests.seed[0]))
            places = torch.randint(len(same[0]), places.shape, generator=generator)
        return self.test.data[places]


def measured(measurement: ImageMeasurement, painter: Painter) -> Measured:
    return measurement.measure(Subject(painter.sample, lambda batch: None), silent)


def test_captions_of_the_right_pictures_are_found_as_those_of_real_ones(
    measurement: ImageMeasurement, dataset: Dataset
) -> None:
    found = measured(measurement, Painter(dataset))
    guess = chance(48)
    assert measurement.protocol["captions"] == 48
    baseline, real, model = (part[RANK] for part in (found.baseline, found.reference, found.metrics))
    assert (baseline.value, baseline.low, baseline.high) == (guess, guess, guess)
    assert real.low > 4 * guess
    assert model.low > 4 * guess
    assert model.value == pytest.approx(real.value, abs=0.1)
    fact = found.facts[f"{RANK}_training"]
    assert fact["baseline"] == guess
    assert fact["model"] > 4 * guess
    assert fact["real"] > 4 * guess
    assert {"samples.png", "samples_training.png", "nearest.png"} <= set(found.files)


def test_captions_of_other_pictures_are_found_by_chance(
    measurement: ImageMeasurement, dataset: Dataset
) -> None:
    found = measured(measurement, Painter(dataset, shuffled=True))
    assert found.metrics[RANK].low < chance(48) < found.metrics[RANK].high
    assert found.facts[f"{RANK}_training"]["model"] < 2 * chance(48)


def test_the_judge_is_trained_once(measurement: ImageMeasurement, dataset: Dataset, cache: Path) -> None:
    said: list[str] = []
    again = caption_judge(dataset, cache, said.append)
    assert said == []
    assert measurement.protocol["captions_digest"] == again.digest[:16]


def test_the_same_judge_is_trained_again(dataset: Dataset, tmp_path: Path, cache: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = caption_judge(dataset, tmp_path, silent)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.digest == caption_judge(dataset, cache, silent).digest


def test_ranks_count_what_is_nearer_and_share_ties() -> None:
    network = Matcher((3, 8, 8), 10).eval()
    network.seen = lambda data: torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # type: ignore[method-assign]
    network.read = lambda prompt: torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])  # type: ignore[method-assign]
    from components.evaluation.captions import CaptionJudge

    judge = CaptionJudge(network, "")
    ranks = judge.ranks(torch.zeros(2), torch.tensor([0, 1]), judge.read(torch.zeros(3, 1)))
    assert ranks.tolist() == [1.0, 1.5]


def test_equal_captions_in_a_batch_are_no_mistakes() -> None:
    network = Matcher((3, 8, 8), 10)
    data, prompt = torch.rand(4, 3, 8, 8), torch.tensor([[1, 2]] * 4)
    assert float(network.loss(data, prompt, prompt).detach()) == pytest.approx(0, abs=1e-6)


def test_the_chance_of_a_guess() -> None:
    ranks = torch.arange(1, 49).double()
    assert chance(48) == pytest.approx(float((1 / ranks).mean()))
    assert chance(1) == 1
