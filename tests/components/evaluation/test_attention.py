from __future__ import annotations

import io

import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from components.evaluation.attention import attention_picture, looking
from components.families.diffusion import Diffusion
from components.families.family import Shape
from components.families.sampling import sample
from components.train.step import networks_for
from tests.components.families.rows import evaluated, requests_of, stirred


class Mapped(nn.Module):
    """Says by itself where it looks."""

    def map(self, inputs: Tensor) -> Tensor:
        return torch.full((len(inputs), 16, 4), 0.25)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def test_the_fused_attention_is_seen_with_its_mask_and_changes_nothing() -> None:
    queries, keys, values = torch.randn(3, 2, 4, 9, 8).unbind(0)
    mask = (torch.arange(9) < 5).expand(9, 9)
    plain = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    with looking({}) as looks:
        seen = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    assert torch.equal(seen, plain)
    weights = looks.over(3, 3)
    assert weights is not None
    assert weights.shape == (2, 9, 9)
    assert torch.allclose(weights.sum(2), torch.ones(2, 9))
    assert float(weights[:, :, 5:].max()) == 0
    by_head = scaled_dot_product_attention(queries, keys, torch.eye(9).expand(2, 4, 9, 9), attn_mask=mask)
    assert torch.allclose(weights, by_head.mean(1), atol=1e-5)


def test_the_finest_attention_counts_and_hooks_are_taken_away() -> None:
    network = nn.Sequential(Mapped())
    with looking({"generator": network}) as looks:
        network(torch.zeros(2, 1, 4, 4))
        scaled_dot_product_attention(*torch.randn(3, 2, 1, 4, 8).unbind(0))
    weights = looks.over(4, 4)
    assert weights is not None
    assert weights.shape == (2, 16, 4)
    assert looks.over(3, 1) is None
    assert not network[0]._forward_pre_hooks
    with looking({"generator": nn.Identity()}) as nothing:
        pass
    assert nothing.over(4, 4) is None


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_diffusion_shows_where_it_looks(network: str) -> None:
    family, shape = Diffusion(network=network, width=16, depth=1), Shape(data=(3, 8, 8), prompt=(6, 20))
    networks = evaluated(stirred(networks_for(family, shape, 0)))
    plain = sample(family, networks, requests_of([1, 2], shape), 2)
    with looking(networks) as looks:
        seen = sample(family, networks, requests_of([1, 2], shape), 2)
    assert torch.allclose(seen, plain, atol=1e-4)
    weights = looks.over(8, 8)
    assert weights is not None
    places = (
        4 if network == "unet" else 16
    )  # the former are fewer than the seven words that look at each other
    assert weights.shape == (2, places, places + 7)
    assert torch.allclose(weights.sum(2), torch.ones(2, places), atol=1e-5)
    assert attention_picture(seen, weights) is not None


def test_a_place_is_green_and_what_it_looks_at_is_red() -> None:
    weights = torch.zeros(1, 16, 4)
    weights[:, :, 3] = 1  # every place looks at the lower right quarter
    picture = attention_picture(torch.full((1, 1, 4, 4), -1.0), weights)
    assert picture is not None
    image = Pillow.open(io.BytesIO(picture)).convert("RGB")
    cell = 56 + 2
    assert image.size == (7 * cell + 2, cell + 2)
    assert image.getpixel((cell + 2 + 50, 2 + 50)) == (255, 0, 0)
    assert image.getpixel((cell + 2 + 50, 2 + 3)) == (0, 0, 0)
    assert image.getpixel((cell + 2 + 14 + 7, 2 + 14 + 7)) == (0, 255, 0)


def test_words_behind_the_places_are_left_out_and_other_tokens_are_no_picture() -> None:
    pictures = torch.zeros(2, 3, 8, 8)
    assert attention_picture(pictures, torch.rand(2, 16, 16 + 5)) is not None
    assert attention_picture(pictures, torch.rand(2, 7, 7)) is None
