"""Rows that are asked for: those of the whole split in the drawn order, of which no more is read."""

from __future__ import annotations

import torch

from components.data.dataset import Dataset
from components.evaluation.asked import Rows


def test_rows_are_those_of_the_split_in_the_drawn_order(digits: Dataset) -> None:
    whole = digits.whole("test")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(3))[:20]
    rows = Rows(digits, "test", 20, 3)
    assert len(rows) == 20
    assert len(rows.columns["image"]) == 20
    asked = rows.at(torch.tensor([0, 19, 20]))
    assert torch.equal(asked.data, whole.data[order[[0, 19, 0]]])
    assert asked.label is not None
    assert whole.label is not None
    assert torch.equal(asked.label, whole.label[order[[0, 19, 0]]])
    assert asked.place.tolist() == [0, 19, 0]


def test_the_first_rows_of_a_split_are_read_alone(digits: Dataset) -> None:
    assert len(digits.columns("test", 7)["image"]) == 7
    assert torch.equal(digits.columns("test", 7)["image"], digits.columns("test")["image"][:7])
