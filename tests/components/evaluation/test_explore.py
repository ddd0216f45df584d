from __future__ import annotations

import dataclasses
import io

import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.asked import Rows
from components.evaluation.by_label import ByLabel
from components.evaluation.condition import Condition, Free
from components.evaluation.explore import between, explored
from components.evaluation.judge import Features, Projection
from components.evaluation.measurement import Subject
from components.families.family import Requests
from tests.components.evaluation.pictures import SIDE, shapes

LATENT = 3
CELL = SIDE * 4 + 2


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    sizes = {"train": 8, "val": 4, "test": 40}
    dataset: Dataset = shapes(tmp_path_factory.mktemp("data") / "shapes", sizes=sizes)
    return Rows(dataset, "test", 40, 0)


class Knobs:
    """The first latent is red, the second green; the third does nothing. Its pictures' means are its way back."""

    def __init__(self) -> None:
        self.asked: list[Requests] = []

    def latents(self, requests: Requests) -> Tensor:
        return torch.stack(
            [
                torch.randn(LATENT, generator=torch.Generator().manual_seed(int(seed)))
                for seed in requests.seed
            ]
        )

    def sample(self, requests: Requests, width: int) -> Tensor:
        self.asked.append(requests)
        latent = requests.options["latent"]
        colours = torch.cat([latent[:, :2] / 3, torch.full((len(latent), 1), -1.0)], 1)
        return colours[:, :, None, None].expand(-1, -1, SIDE, SIDE).clamp(-1, 1)

    def encode(self, data: Tensor) -> Tensor:
        means = data.mean((2, 3)) * 3
        return torch.cat([means[:, :2], torch.zeros(len(data), 1)], 1)

    def subject(self) -> Subject:
        return Subject(self.sample, lambda batch: None, encode=self.encode, latents=self.latents)


def colour(picture: bytes, row: int, column: int, rows: int, columns: int) -> tuple[int, ...]:
    """The colour in the middle of one cell, which stand at the right end and at the bottom of a sheet."""
    sheet = Pillow.open(io.BytesIO(picture)).convert("RGB")
    left, top = sheet.width - columns * CELL - 2, sheet.height - rows * CELL - 2
    found = sheet.getpixel((left + column * CELL + CELL // 2, top + row * CELL + CELL // 2))
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def test_a_traversal_moves_the_latents_that_vary_most(rows: Rows) -> None:
    knobs = Knobs()
    found = explored(knobs.subject(), Free(), rows, 64, 0)
    assert set(found.files) == {"interpolation.png", "variations.png", "traversal.png"}
    assert found.facts == {"active_latents": {"model": 2.0}}
    first, last = (colour(found.files["traversal.png"], 0, column, 3, 9) for column in (0, 8))
    moved = [place for place in range(3) if abs(first[place] - last[place]) > 200]
    assert len(moved) == 1, "the first line moves one knob from end to end"
    still = [colour(found.files["traversal.png"], 2, column, 3, 9) for column in range(9)]
    assert len(set(still)) == 1, "the last line moves the knob that does nothing"


def test_rows_are_encoded_in_parts_and_all_of_them(rows: Rows) -> None:
    knobs, seen = Knobs(), []
    whole = explored(knobs.subject(), Free(), rows, 64, 0)

    def encode(data: Tensor) -> Tensor:
        seen.append(len(data))
        return knobs.encode(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.evaluation.asked.PART", 7)
        found = explored(dataclasses.replace(knobs.subject(), encode=encode), Free(), rows, 64, 0)
    assert seen == [7, 7, 7, 7, 7, 5]
    assert found == whole


def test_variations_lie_around_the_picture_and_its_reconstruction(rows: Rows) -> None:
    found = explored(Knobs().subject(), Free(), rows, 64, 0)
    seen = rows.at(torch.arange(8)).data
    again = colour(found.files["variations.png"], 3, 1, 8, 9)
    expected = (seen[3].mean((1, 2))[:2] + 1) * 127.5
    assert again[:2] == pytest.approx(expected.tolist(), abs=1)
    others = [colour(found.files["variations.png"], 3, column, 8, 9) for column in range(2, 9)]
    assert len(set(others)) == 7
    assert max(abs(other[0] - again[0]) for other in others) < 110


def test_lines_keep_what_was_asked_for(rows: Rows) -> None:
    knobs = Knobs()
    features = Features("pca", 1, None, "", Projection((3, SIDE, SIDE), 1))
    explored(knobs.subject(), ByLabel(features, ["a", "b", "c", "d"], 64), rows, 64, 0)
    labels = [requests.label for requests in knobs.asked]
    wanted = rows.at(torch.arange(8)).label
    assert wanted is not None
    assert [label.tolist() for label in labels if label is not None] == [
        wanted.repeat_interleave(9).tolist(),
        wanted.repeat_interleave(8).tolist(),
        wanted[:1].repeat(27).tolist(),
    ]


def test_models_without_latents_show_nothing_and_without_a_way_back_only_what_lies_between(
    rows: Rows,
) -> None:
    knobs = Knobs().subject()
    condition: Condition = Free()
    assert explored(Subject(knobs.sample, knobs.nats), condition, rows, 64, 0).files == {}
    forward = dataclasses.replace(knobs, encode=lambda data: None)
    assert set(explored(forward, condition, rows, 64, 0).files) == {"interpolation.png"}


def test_steps_between_two_latents_keep_their_length() -> None:
    first, last = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    found = between(first, last)
    assert torch.allclose(found[:, 0], first, atol=1e-5)
    assert torch.allclose(found[:, -1], last, atol=1e-5)
    assert found[0].norm(dim=1).tolist() == pytest.approx([2.0] * 9)
    assert found[0, 4].tolist() == pytest.approx([2**0.5] * 2)
    assert torch.allclose(found[1], first[1].expand(9, 2), atol=1e-3)
