"""The learning rate over a training, against the curves written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.project import TrainOptions
from components.train.schedule import apply, factor, remember


def curve(**settings: object) -> list[float]:
    options = TrainOptions.model_validate({"steps": 10, **settings})
    return [factor(options, step) for step in range(10)]


def test_constant_is_one_after_the_warm_up() -> None:
    assert curve() == [1.0] * 10
    assert curve(warmup=4) == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_wsd_rises_stays_and_falls_linearly_to_its_end() -> None:
    expected = [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert curve(schedule="wsd", warmup=2, decay=0.5, final_lr=0.2) == pytest.approx(
        [0.5, 1, 1, 1, 1, 0.84, 0.68, 0.52, 0.36, 0.2]
    )
    assert curve(schedule="wsd", warmup=2, decay=0.4) == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    )
    assert curve(schedule="wsd", warmup=2, decay=0.4, final_lr=0.2) == pytest.approx(expected)
    assert curve(schedule="wsd", warmup=6, decay=1.0)[5:] == pytest.approx([1, 0.75, 0.5, 0.25, 0])


def test_cosine_equals_torch_after_the_warm_up() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.05)
    expected = []
    for _ in range(8):
        optimizer.step()
        theirs.step()
        expected.append(optimizer.param_groups[0]["lr"])
    ours = curve(schedule="cosine", warmup=2, final_lr=0.1)
    assert ours[:2] == [0.5, 1.0]
    assert [0.5 * value for value in ours[2:]] == pytest.approx(expected)


def test_several_optimizers_and_groups_keep_their_proportions() -> None:
    first, second, third = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizers = [
        torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.3}]),
        torch.optim.AdamW([third], lr=0.02, fused=True),
    ]
    remember(optimizers)
    for value in (0.5, 0.25):
        apply(optimizers, value)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([0.1 * value, 0.3 * value, 0.02 * value])
