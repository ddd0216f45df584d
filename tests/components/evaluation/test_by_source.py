from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.by_source import filled
from components.evaluation.measure_image import ImageMeasurement
from components.evaluation.measurement import Extent, Measured, Subject
from components.families.family import Requests, Task
from components.modalities.corruption import Corruption
from components.modalities.sources import beside, shown
from tests.components.evaluation.pictures import shapes

Answer = Callable[[Tensor], Tensor]


def silent(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def cache(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def spoilt(folder: Path, corruption: Corruption, test: int = 120, judged: bool = False) -> Dataset:
    sizes = {"train": 360, "val": 12, "test": test}
    found = shapes(folder / corruption.kind, corruption=corruption, sizes=sizes)
    classes = found.classes if judged else ()
    return dataclasses.replace(found, shape=found.shape.narrowed(Task.SOURCE), classes=classes)


def measured(dataset: Dataset, cache: Path, answer: Answer) -> Measured:
    def sample(requests: Requests, width: int) -> Tensor:
        assert requests.source is not None
        return answer(requests.source)

    subject = Subject(sample, lambda batch: None)
    return ImageMeasurement(dataset, cache, Extent(), silent).measure(subject, silent)


def test_a_model_that_gives_the_source_back_is_the_baseline(tmp_path: Path, cache: Path) -> None:
    dataset = spoilt(tmp_path, Corruption("noise", 25.0))
    found = measured(dataset, cache, lambda source: source)
    assert next(iter(found.metrics)) == "psnr"
    assert found.metrics == found.baseline
    assert 20 < found.metrics["psnr"].value < 22.5, (
        "noise of 25 levels is 20.2 dB, a little less after clipping"
    )
    assert found.metrics["psnr"].low < found.metrics["psnr"].value < found.metrics["psnr"].high
    assert "psnr" not in found.reference
    assert {"pca_coverage", "ssim"} <= set(found.metrics)


def test_sources_of_held_out_rows_are_the_same_each_time(tmp_path: Path, cache: Path) -> None:
    dataset = spoilt(tmp_path, Corruption("noise", 25.0))
    seen: list[Tensor] = []

    def answer(source: Tensor) -> Tensor:
        seen.append(source)
        return source

    measured(dataset, cache, answer)
    first = torch.cat(seen)
    seen.clear()
    measured(dataset, cache, answer)
    assert len(first) == 120
    assert torch.equal(torch.cat(seen), first)


def test_a_hole_is_measured_by_itself(tmp_path: Path, cache: Path) -> None:
    dataset = spoilt(tmp_path, Corruption("mask", 0.5), test=24)
    found = measured(dataset, cache, lambda source: source[:, :3])
    assert list(found.metrics) == ["psnr", "ssim", "hole_psnr"], "features of 24 pictures say nothing"
    gap = found.metrics["psnr"].value - found.metrics["hole_psnr"].value
    # the hole has a quarter of the picture, and outside of it nothing is wrong
    assert gap == pytest.approx(10 * math.log10(4), abs=0.01)
    assert found.baseline["hole_psnr"].value > found.metrics["hole_psnr"].value


def test_the_trivial_answer_fills_holes_with_the_mean_and_repeats_grey() -> None:
    source = torch.tensor([[0.2, 0.4], [0.0, 0.6]]).view(1, 1, 2, 2)
    mask = torch.tensor([[-1.0, -1.0], [1.0, -1.0]]).view(1, 1, 2, 2)
    found = filled(torch.cat([source, mask], 1), 1)
    assert found.flatten().tolist() == pytest.approx([0.2, 0.4, 0.4, 0.6], abs=0.005)
    assert filled(source, 3).shape == (1, 3, 2, 2)
    assert torch.equal(filled(source, 3)[:, 0], filled(source, 1)[:, 0])


def test_grey_sources_stand_beside_coloured_results(tmp_path: Path, cache: Path) -> None:
    dataset = spoilt(tmp_path, Corruption("grey"), test=24)
    found = measured(dataset, cache, lambda source: source.expand(-1, 3, -1, -1))
    assert found.metrics["psnr"].value == pytest.approx(found.baseline["psnr"].value, abs=0.05)
    picture = Pillow.open(io.BytesIO(found.files["before_after.png"]))
    assert picture.width == 4 * 3 * (4 * 12 + 2) + 2
    assert picture.height > 4 * (4 * 12 + 2)


def test_a_converted_picture_should_keep_its_class(tmp_path: Path, cache: Path) -> None:
    dataset = spoilt(tmp_path, Corruption("unpaired"), judged=True)
    found = measured(dataset, cache, lambda source: -source)
    assert found.metrics["class_accuracy"].value > 0.9
    assert found.reference["class_accuracy"].value > 0.9
    assert found.baseline["class_accuracy"].value < 0.6, "inverted colours are other colours"
    assert "psnr" not in found.metrics
    assert next(iter(found.metrics)) == "judge_frechet_distance"
    picture = Pillow.open(io.BytesIO(found.files["before_after.png"]))
    assert picture.width == 4 * 2 * (4 * 12 + 2) + 2


def test_two_domains_without_a_class_in_common_are_compared_by_features_alone(
    tmp_path: Path, cache: Path
) -> None:
    dataset = spoilt(tmp_path, Corruption("unpaired"), test=24, judged=True)
    (path,) = dataset.paths("test")
    table = pq.read_table(path)
    place = table.column_names.index("source_label")
    none = pa.array([-1] * len(table), pa.int32())
    pq.write_table(table.set_column(place, table.schema.field(place), none), path)
    found = measured(dataset, cache, lambda source: -source)
    for column in (found.metrics, found.baseline, found.reference):
        assert next(iter(column)) == "judge_frechet_distance"
    assert "class_accuracy" not in found.metrics


def test_sources_are_shown_as_pictures() -> None:
    source = torch.cat([torch.full((2, 3, 4, 4), 3.0), torch.ones(2, 1, 4, 4)], 1)
    assert shown(source, 3).shape == (2, 3, 4, 4)
    assert float(shown(source, 3).max()) == 1
    assert shown(torch.zeros(2, 3, 4, 4), 1).shape == (2, 1, 4, 4)
    pairs = beside(torch.zeros(2, 1, 4, 4), torch.ones(2, 3, 4, 4))
    assert pairs[:, 0, 0, 0].tolist() == [0, 1, 0, 1]


def test_what_is_known_beside_a_hole_is_measured_as_clients_get_it(tmp_path: Path, cache: Path) -> None:
    dataset = spoilt(tmp_path, Corruption("mask", 0.4))
    clean = measured(dataset, cache, lambda source: torch.where(source[:, -1:] > 0, 0.5, source[:, :-1]))
    noisy = measured(
        dataset, cache, lambda source: torch.where(source[:, -1:] > 0, 0.5, 0.9 * source[:, :-1])
    )
    assert noisy.metrics == clean.metrics
