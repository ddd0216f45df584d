"""What pictures of progress are drawn from, by what the requests of a product carry."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import torch
from PIL import Image as Pillow

from components.data.dataset import Dataset
from components.families.family import Shape, Task
from components.modalities.corruption import Corruption
from components.train.loop import preview
from tests.components.evaluation.pictures import shapes

SIZES = {"train": 8, "val": 4, "test": 24}


def narrowed(dataset: Dataset, task: Task) -> Dataset:
    return dataclasses.replace(dataset, shape=dataset.shape.narrowed(task))


def test_classes_come_in_turn_and_a_free_product_asks_for_nothing(tmp_path: Path) -> None:
    dataset = shapes(tmp_path / "plain", sizes=SIZES)
    label = preview(narrowed(dataset, Task.LABEL)).label
    assert label is not None
    assert label.tolist() == [0, 1, 2, 3] * 16
    free = preview(narrowed(dataset, Task.FREE))
    assert (free.label, free.prompt, free.source, len(free)) == (None, None, None, 64)


def test_captions_are_those_of_the_first_held_out_rows(tmp_path: Path) -> None:
    dataset = narrowed(shapes(tmp_path / "captioned", captions=True, sizes=SIZES), Task.PROMPT)
    found, wanted = preview(dataset).prompt, dataset.whole("test").prompt
    assert found is not None
    assert wanted is not None
    assert torch.equal(found, wanted[torch.arange(64) % 24])


def test_each_source_stands_before_its_result(tmp_path: Path) -> None:
    hidden = shapes(tmp_path / "hidden", corruption=Corruption("mask", 0.5), sizes=SIZES)
    dataset = narrowed(hidden, Task.SOURCE)
    requests = preview(dataset)
    assert requests.source is not None
    assert requests.source.shape == (64, 4, 12, 12)
    picture = dataset.tensors.progress(torch.ones(64, 3, 12, 12), requests)
    sheet = Pillow.open(io.BytesIO(picture)).convert("RGB")
    cell = 4 * 12 + 2
    assert sheet.size == (8 * cell + 2, 16 * cell + 2)
    results = [sheet.getpixel((column * cell + 2 + 20, 2 + 20)) for column in range(8)]
    assert [found == (255, 255, 255) for found in results] == [False, True] * 4


def test_large_pictures_are_fewer(tmp_path: Path) -> None:
    dataset = shapes(tmp_path / "plain", sizes=SIZES)
    large = dataclasses.replace(dataset, shape=Shape(data=(3, 256, 256)))
    assert len(preview(large)) == 8
