from __future__ import annotations

import io

import torch
from PIL import Image as Pillow
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from components.evaluation.attention import attention_picture, looking


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
    assert looks.weights is not None
    assert looks.weights.shape == (2, 9, 9)
    assert torch.allclose(looks.weights.sum(2), torch.ones(2, 9))
    assert float(looks.weights[:, :, 5:].max()) == 0
    by_head = scaled_dot_product_attention(queries, keys, torch.eye(9).expand(2, 4, 9, 9), attn_mask=mask)
    assert torch.allclose(looks.weights, by_head.mean(1), atol=1e-5)


def test_the_finest_attention_counts_and_hooks_are_taken_away() -> None:
    network = nn.Sequential(Mapped())
    with looking({"generator": network}) as looks:
        network(torch.zeros(2, 1, 4, 4))
        scaled_dot_product_attention(*torch.randn(3, 2, 1, 4, 8).unbind(0))
    assert looks.weights is not None
    assert looks.weights.shape == (2, 16, 4)
    assert not network[0]._forward_pre_hooks
    with looking({"generator": nn.Identity()}) as nothing:
        pass
    assert nothing.weights is None


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
