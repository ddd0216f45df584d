"""Moving averages of the weights, and clipping their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from components.data.dataset import Position
from components.families.family import Shape
from components.families.wgan_gp import WGANGP
from components.project import TrainOptions
from components.train import checkpoint
from components.train.averages import Average, clip
from components.train.step import Trainee, advance, build, networks_for
from tests.components.families.rows import batch_of

IMAGES = Shape(data=(1, 8, 8))


def critic_and_generator(seed: int) -> Trainee:
    """The generator learns in every second step."""
    family = WGANGP(**WGANGP.small)
    networks = networks_for(family, IMAGES, seed)
    return build(family, networks, TrainOptions(ema=0.99), torch.device("cpu"), world=1)


@pytest.mark.parametrize(("most", "scaled"), [(0.5, True), (100.0, False)])
def test_clipping_equals_torch(most: float, scaled: bool) -> None:
    ours, theirs = ([nn.Parameter(torch.ones(shape)) for shape in ((3, 4), (5,), ())] for _ in range(2))
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
        other.grad = one.grad.clone()
    kept = [value.grad.clone() for value in ours if value.grad is not None]
    clip(ours, most)
    nn.utils.clip_grad_norm_(theirs, most)
    assert all(torch.equal(one.grad, other.grad) for one, other in zip(ours, theirs, strict=True))  # type: ignore[arg-type]
    assert all(torch.equal(one.grad, old) for one, old in zip(ours, kept, strict=True)) is not scaled  # type: ignore[arg-type]


def test_averages_equal_the_formula_and_buffers_are_taken_along() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(network, decay=0.9)
    expected: dict[str, torch.Tensor] = {}
    for step in range(40):
        with torch.no_grad():
            for value in network.parameters():
                value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(step)))
        network(torch.randn(4, 3))
        average.update()
        weight = 1.0 if step == 0 else 1.0 - min(0.9, (1 + step) / (10 + step))
        for key, new in network.state_dict().items():
            old = expected.get(key, new)
            expected[key] = old + (new - old) * weight if new.is_floating_point() else new.clone()
    assert average.module is not None
    for key, value in average.module.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-6)


def test_the_average_of_a_network_that_rests_counts_its_own_updates(tmp_path: Path) -> None:
    trainee = critic_and_generator(0)
    for step in range(5):
        advance(trainee, batch_of(IMAGES, 8), step)
        if step == 1:
            first, own = trainee.sampled["generator"].state_dict(), trainee.networks["generator"].state_dict()
            assert all(torch.equal(first[key], own[key]) for key in own), "nothing of before it learnt"
    assert {name: average.taken for name, average in trainee.averages.items()} == {
        "critic": 5,
        "generator": 2,
    }
    checkpoint.save(tmp_path, trainee, 5, Position(40), 0)
    again = critic_and_generator(1)
    assert checkpoint.restore(tmp_path, again, 0) is not None
    for each in (trainee, again):
        torch.manual_seed(0)
        advance(each, batch_of(IMAGES, 8), 5)
    for name, average in trainee.averages.items():
        values = again.averages[name].values
        assert all(torch.equal(value, values[key]) for key, value in average.values.items())
