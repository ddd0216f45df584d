"""Every family on a GPU: its steps, its checkpoint, and samples that are those of the CPU."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from components.data.dataset import Position
from components.families.family import Shape, names
from components.families.sampling import sample
from components.project import TrainOptions
from components.train import checkpoint
from components.train.loop import to_device
from components.train.step import Trainee, advance, build
from tests.components.families.rows import batch_of, evaluated, made, requests_of, shapes_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
ROWS, WIDTH = 8, 4
CASES = [(name, shape) for name in names() for shape in shapes_of(name)]


def trainee_of(name: str, shape: Shape, precision: str) -> Trainee:
    family, networks = made(name, shape)
    clip = 0 if family.unclipped else 1
    options = TrainOptions.model_validate({"clip": clip, "precision": precision})
    return build(family, networks, options, torch.device("cuda"), 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_steps_are_finite_and_a_checkpoint_goes_on(
    name: str, shape: Shape, precision: str, tmp_path: Path
) -> None:
    """Sums on a GPU have no fixed order, so what went on is near what was not stopped, and no more."""
    batch = to_device(batch_of(shape, ROWS), torch.device("cuda"))
    begun = trainee_of(name, shape, precision)
    for step in range(2):
        advance(begun, batch, step)
    checkpoint.save(tmp_path, begun, 2, Position(2 * ROWS), 0)
    again = trainee_of(name, shape, precision)
    resumed = checkpoint.restore(tmp_path, again, 0)
    assert resumed is not None
    assert resumed.step == 2
    one = advance(again, batch, 2)
    checkpoint.restore(tmp_path, begun, 0)
    other = advance(begun, batch, 2)
    assert checkpoint.finite(again)
    for key, value in one.items():
        assert math.isfinite(float(value)), key
        torch.testing.assert_close(value, other[key], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_samples_are_those_of_the_cpu(name: str, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    family, networks = made(name, shape)
    evaluated(networks)
    requests = requests_of([0, 1, 2, 3, 4], shape)
    here = sample(family, networks, requests, WIDTH)
    there = sample(family, {key: network.cuda() for key, network in networks.items()}, requests, WIDTH)
    assert there.device.type == "cpu"
    if here.is_floating_point():
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-3)
    else:  # one draw on the border between two tokens is enough for another text
        assert (there == here).float().mean() > 0.9


@pytest.mark.parametrize(("name", "shape"), [case for case in CASES if case[1].vocabulary], ids=str)
def test_likelihoods_are_those_of_the_cpu(name: str, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of texts: the bounds of pictures draw noise, which a GPU draws otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    family, networks = made(name, shape)
    evaluated(networks)
    batch = batch_of(shape, ROWS)
    with torch.inference_mode():
        here = family.nats(networks, batch)
        moved = {key: network.cuda() for key, network in networks.items()}
        there = family.nats(moved, to_device(batch, torch.device("cuda")))
    assert here is not None
    assert there is not None
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-3)
