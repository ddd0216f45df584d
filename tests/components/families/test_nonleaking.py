"""Changes of training pictures that a denoiser is told: each does what is said of it, and samples have none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from components.families.diffusion import Denoiser, Diffusion
from components.families.family import Shape
from components.families.layers.nonleaking import REACH, TOLD, changed
from components.families.sampling import sample
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.components.families.rows import batch_of, requests_of, stirred

SIDE = 32
MANY = 4096
TURN = slice(3, 5)


@pytest.fixture(scope="module")
def spots() -> Tensor:
    """A round spot right of the middle and above it, [MANY, 1, SIDE, SIDE]."""
    down, right = torch.meshgrid(torch.arange(SIDE) - 15.5, torch.arange(SIDE) - 15.5, indexing="ij")
    spot = torch.exp(-((right - 6) ** 2 + (down + 3) ** 2) / 4)
    return spot.expand(MANY, 1, SIDE, SIDE)


@pytest.fixture(scope="module")
def made(spots: Tensor) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return changed(spots, 0.12)


def middle(pictures: Tensor) -> Tensor:
    """Where the spots are, [N, 2]: pixels right of the middle and below it."""
    weights = pictures[:, 0].clamp(min=0)
    weights = weights / weights.sum((1, 2), keepdim=True)
    place = torch.arange(SIDE) - 15.5
    return torch.stack([(weights.sum(1) * place).sum(1), (weights.sum(2) * place).sum(1)], 1)


def alone(told: Tensor, which: slice) -> Tensor:
    """The rows to which only `which` was done."""
    rest = torch.ones(TOLD, dtype=torch.bool)
    rest[which] = False
    return (told[:, which] != 0).any(1) & (told[:, rest] == 0).all(1)


def test_what_nothing_is_done_to_stays_as_it_is_and_is_told_as_zeros(
    spots: Tensor, made: tuple[Tensor, Tensor]
) -> None:
    pictures, told = changed(spots[:8], 0.0)
    assert torch.equal(pictures, spots[:8])
    assert not told.any()
    still = (made[1] == 0).all(1)
    assert 0.3 < float(still.float().mean()) < 0.6  # (1 − 0.06)² · (1 − 0.12)⁴ is 0.53
    assert torch.equal(made[0][still], spots[still])
    assert not torch.equal(made[0][~still], spots[~still])


def test_each_change_is_as_likely_as_was_asked(made: tuple[Tensor, Tensor]) -> None:
    share = (made[1] != 0).float().mean(0)
    likely = torch.tensor([0.06, 0.06, *[0.12] * 7])
    assert torch.allclose(share, likely, atol=4 * math.sqrt(0.12 * 0.88 / MANY))


def test_mirrored_pictures_are_told_as_mirrored(spots: Tensor, made: tuple[Tensor, Tensor]) -> None:
    pictures, told = made
    for number, side in ((0, -1), (1, -2)):
        rows = alone(told, slice(number, number + 1))
        assert rows.sum() > 50
        assert torch.allclose(pictures[rows], spots[rows].flip(side), atol=1e-5)


def test_spots_go_where_it_is_told(spots: Tensor, made: tuple[Tensor, Tensor]) -> None:
    pictures, told = made
    before = middle(spots[:1])[0]
    larger = alone(told, slice(2, 3)) & (told[:, 2].abs() < 2)
    found = middle(pictures[larger]) / before
    assert torch.allclose(found, torch.exp2(0.2 * told[larger, 2:3]).expand(-1, 2), rtol=0.02)

    turned = alone(told, TURN)
    angle = torch.atan2(told[turned, 4], told[turned, 3] + 1)
    right = before[0] * angle.cos() - before[1] * angle.sin()
    below = before[0] * angle.sin() + before[1] * angle.cos()
    assert torch.allclose(middle(pictures[turned]), torch.stack([right, below], 1), atol=0.05)

    moved = alone(told, slice(7, 9)) & (told[:, 7:].abs().amax(1) < 1)
    assert torch.allclose(middle(pictures[moved]), before + REACH * SIDE * told[moved, 7:], atol=0.05)


def test_pictures_are_stretched_along_the_told_axis(spots: Tensor, made: tuple[Tensor, Tensor]) -> None:
    pictures, told = made
    rows = alone(told, slice(5, 7)) & (told[:, 5:7].norm(dim=1) < 2)
    assert rows.sum() > 50
    far = told[rows, 5:7].norm(dim=1, keepdim=True)
    angle = torch.atan2(told[rows, 6], told[rows, 5]) / 2
    axis = torch.stack([angle.cos(), angle.sin()], 1)
    before = middle(spots[:1]).expand(int(rows.sum()), -1)
    along = (before * axis).sum(1, keepdim=True) * axis
    wanted = along * torch.exp2(0.2 * far) + (before - along) * torch.exp2(-0.2 * far)
    assert torch.allclose(middle(pictures[rows]), wanted, atol=0.05)


def test_a_source_is_changed_as_its_picture_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(data=(1, 8, 8), source=(1, 8, 8))
    family = Diffusion(**Diffusion.small, augment=0.8)
    networks = stirred(family.networks(shape))
    batch = batch_of(shape, 16)
    assert batch.source is not None
    batch.source.copy_(batch.data)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    forward = Denoiser.forward

    def spy(self: Denoiser, noisy: Tensor, sigma: Tensor, given: object, change: Tensor) -> Tensor:
        seen.append((noisy, given.source, change))  # type: ignore[attr-defined]
        return forward(self, noisy, sigma, given, change)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoiser, "forward", spy)
    monkeypatch.setattr(
        "components.families.diffusion.training_levels", lambda rows, *_: torch.zeros(rows) + 1e-6
    )
    family.loss("denoiser", networks, batch, 0)
    noisy, source, change = seen[0]
    assert change.shape == (16, TOLD)
    assert not torch.allclose(source, batch.source)
    assert torch.allclose(noisy, source, atol=1e-4)


@pytest.mark.parametrize("shape", [Shape(data=(1, 8, 8)), Shape(data=(3, 8, 8), prompt=(6, 20))])
def test_a_denoiser_learns_with_changes_and_samples_without(shape: Shape) -> None:
    family = Diffusion(**Diffusion.small, augment=0.5)
    networks = networks_for(family, shape, 0)
    trainee = build(family, networks, TrainOptions(ema=0.0), torch.device("cpu"), 1)
    before = networks["denoiser"].condition.change.weight.clone()
    logged = [float(advance(trainee, batch_of(shape, 8), step)["loss/denoiser"]) for step in range(3)]
    assert all(math.isfinite(value) for value in logged)
    assert not torch.equal(networks["denoiser"].condition.change.weight, before)
    networks["denoiser"].eval()
    output = sample(family, networks, requests_of([1, 2], shape), 2)
    with torch.no_grad():
        networks["denoiser"].condition.change.weight.fill_(1e3)
    assert torch.equal(sample(family, networks, requests_of([1, 2], shape), 2).data, output.data)
