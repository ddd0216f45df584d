"""Sources made of pictures: shapes and amounts, the same draw the same source, a person's own taken as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.errors import UserError
from components.modalities.corruption import Corruption, Spoiling
from components.modalities.views import View

MADE = [
    Corruption("noise", 25),
    Corruption("mask", 0.4),
    Corruption("shrink", 2),
    Corruption("grey"),
]


def pictures(rows: int, *shape: int) -> Tensor:
    return torch.rand(rows, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def draws(rows: int) -> Tensor:
    return torch.randint(2**62, (rows,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("corruption", MADE, ids=lambda found: found.kind)
def test_a_draw_decides_its_source_whatever_stands_beside_it(corruption: Corruption) -> None:
    data, draw = pictures(9, 3, 12, 8), draws(9)
    before = data.clone()
    whole = corruption.of(data, draw)
    assert whole.shape[1:] == corruption.shape((3, 12, 8))
    torch.testing.assert_close(corruption.of(data[4:7], draw[4:7]), whole[4:7], rtol=0, atol=1e-6)
    assert torch.equal(data, before)


@pytest.mark.parametrize("kind", ["noise", "mask"])
def test_another_draw_gives_another_source(kind: Spoiling) -> None:
    data = torch.zeros(2, 1, 16, 16)
    first, second = Corruption(kind, 0.3).of(data, torch.tensor([1, 2]))
    assert not torch.equal(first, second)


def test_noise_has_its_deviation_and_is_not_clipped() -> None:
    data = torch.ones(64, 1, 16, 16)
    added = Corruption("noise", 25).of(data, draws(64)) - data
    assert float(added.std()) * 127.5 == pytest.approx(25, rel=0.02)
    assert float(added.mean()) * 127.5 == pytest.approx(0, abs=1)
    assert float(added.max()) > 0.3


def test_a_hole_takes_its_share_of_both_sides_anywhere_and_shows_nothing() -> None:
    data = pictures(2000, 2, 20, 10).abs() + 0.1
    found = Corruption("mask", 0.4).of(data, draws(2000))
    hole = found[:, -1:] == 1
    assert set(found[:, -1:].unique().tolist()) == {-1.0, 1.0}
    assert hole.any(3).sum(2).unique().tolist() == [8]
    assert hole.any(2).sum(2).unique().tolist() == [4]
    assert hole.sum((1, 2, 3)).unique().tolist() == [32]
    assert bool((found[:, :-1][hole.expand(-1, 2, -1, -1)] == 0).all())
    assert torch.equal(found[:, :-1].masked_fill(hole, 0), data.masked_fill(hole, 0))
    assert bool(hole.any(0).all()), "every place is in some hole"


def test_a_small_picture_is_as_large_as_before_and_has_lost_what_is_fine() -> None:
    fine = (torch.arange(16) % 2 * 2.0 - 1).expand(1, 1, 16, 16)
    coarse = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    shrink, draw = Corruption("shrink", 4), torch.zeros(1, dtype=torch.int64)
    assert float(shrink.of(fine, draw).abs().max()) < 0.2
    assert float((shrink.of(coarse, draw) - coarse)[..., 3:-3].abs().max()) < 0.08


def test_grey_weighs_the_colours() -> None:
    colours = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [0.5, 0.5, 0.5]]).view(4, 3, 1, 1)
    found = Corruption("grey").of(colours, torch.zeros(4, dtype=torch.int64)).flatten()
    torch.testing.assert_close(found, torch.tensor([-0.402, 0.174, -0.772, 0.5]))


def test_what_a_person_gives_is_not_spoilt_further() -> None:
    picture = pictures(1, 3, 8, 8)[0]
    for kind in ("noise", "unpaired", "pairs"):
        assert Corruption(kind, 25).given(picture) is picture  # type: ignore[arg-type]
    assert Corruption("grey").given(picture).shape == (1, 8, 8)
    assert torch.equal(Corruption("grey").given(picture[:1]), picture[:1])
    assert Corruption("shrink", 2).given(picture).shape == (3, 16, 16)


def test_a_persons_mask_is_the_hole() -> None:
    picture, mask = pictures(1, 3, 8, 6)[0], torch.zeros(1, 8, 6)
    mask[:, 2:5, 1] = 1
    found = Corruption("mask", 0.4).given(picture, mask)
    assert found.shape == (4, 8, 6)
    assert torch.equal(found[3], mask[0] * 2 - 1)
    assert float(found[:3, 2:5, 1].abs().max()) == 0
    assert torch.equal(found[:3, :2], picture[:, :2])
    with pytest.raises(UserError, match=r"the request has no mask; send one"):
        Corruption("mask", 0.4).given(picture)
    with pytest.raises(
        UserError, match=r"The mask is 8x6 and the picture 6x8; send a mask of the same size\."
    ):
        Corruption("mask", 0.4).given(picture, mask.mT)


def numbered(rows: int, height: int, width: int) -> Tensor:
    """Pictures whose levels say where they stand."""
    return torch.arange(height * width, dtype=torch.uint8).view(1, 1, height, width).expand(rows, -1, -1, -1)


def test_windows_come_from_everywhere_and_the_held_out_one_from_the_middle() -> None:
    whole = numbered(300, 12, 10)
    found = View(crop=8).of(whole, draws(300))
    assert found.shape == (300, 1, 8, 8)
    corners = found[:, 0, 0, 0].tolist()
    assert set(corners) == {10 * top + left for top in range(5) for left in range(3)}
    assert all(int(window[0, 7, 7]) - int(window[0, 0, 0]) == 77 for window in found)
    assert torch.equal(View(crop=8, flip=True, rotate=True).of(whole[:1], None), whole[:1, :, 2:10, 1:9])


def test_flips_and_turns_are_all_eight_and_as_often() -> None:
    found = View(flip=True, rotate=True).of(numbered(4000, 3, 3), draws(4000))
    kinds, counts = found.unique(dim=0, return_counts=True)
    assert len(kinds) == 8
    assert int(counts.min()) > 400
    assert len(View(flip=True).of(numbered(99, 3, 3), draws(99)).unique(dim=0)) == 2


def test_one_row_sees_the_same_whatever_stands_beside_it() -> None:
    view, whole, draw = View(crop=4, flip=True, rotate=True), numbered(9, 8, 8), draws(9)
    assert torch.equal(view.of(whole, draw)[5:7], view.of(whole[5:7], draw[5:7]))


@pytest.mark.parametrize(("fields", "random"), [({}, False), ({"crop": 4}, True), ({"rotate": True}, True)])
def test_only_what_changes_is_random(fields: dict[str, Any], random: bool) -> None:
    assert View(**fields).random is random
