from __future__ import annotations

import io

import torch
from PIL import Image as Pillow

from components.evaluation.memorization import nearest, nearest_picture
from components.families.family import Batch


def batches(data: torch.Tensor, size: int) -> list[Batch]:
    return [Batch(data=part, length=torch.ones(len(part))) for part in torch.split(data, size)]


def test_the_nearest_rows_are_found_in_order_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.rand(50, 1, 4, 4, generator=generator)
    samples = torch.stack([train[17], train[3] + 0.01])
    found = nearest(samples, batches(train, 8))
    distances = torch.cdist(samples.flatten(1), train.flatten(1))
    order = distances.argsort(1)[:, :5]
    assert found.shape == (2, 5, 1, 4, 4)
    assert torch.equal(found, train[order])
    assert torch.equal(found[0, 0], train[17])


def test_the_picture_has_a_line_a_sample_and_fewer_columns_if_there_are_fewer_rows() -> None:
    samples = torch.zeros(8, 1, 28, 28)
    sizes = [
        Pillow.open(io.BytesIO(nearest_picture(samples, batches(torch.zeros(rows, 1, 28, 28), 3)))).size
        for rows in (5, 2)
    ]
    assert sizes == [(2 + 7 * 58, 2 + 8 * 58), (2 + 4 * 58, 2 + 8 * 58)]
