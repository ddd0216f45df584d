"""Attention over pictures and captions: what it computes, and that a row's bits are its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from components.families.layers.mixing import attended


def split(rows: int, places: int, heads: int = 2, size: int = 16, alike: bool = False) -> Tensor:
    """Numbers [rows, heads, places, size] as they come out of one product for all heads."""
    drawn = torch.randn(1 if alike else rows, places, heads, size).expand(rows, -1, -1, -1)
    return drawn.contiguous().permute(0, 2, 1, 3)


@pytest.mark.parametrize("places", [4, 5, 7, 8, 9, 16, 49])
@pytest.mark.parametrize("more", [0, 3, 7])
def test_a_row_s_bits_do_not_depend_on_its_place(places: int, more: int) -> None:
    torch.manual_seed(places)
    queries = split(16, places, alike=True)
    keys, values = (split(16, places + more, alike=True) for _ in range(2))
    mixed = attended(queries, keys, values, None)
    assert all(torch.equal(row, mixed[0]) for row in mixed)


@pytest.mark.parametrize("places", [7, 8, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_attention_as_torch_computes_it(places: int, masked: bool) -> None:
    torch.manual_seed(0)
    queries, keys, values = (split(3, places).requires_grad_() for _ in range(3))
    seen = torch.rand(3, 1, 1, places) < 0.7
    seen[..., 0] = True
    mask = seen if masked else None
    ours = attended(queries, keys, values, mask)
    theirs = scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    torch.testing.assert_close(ours, theirs)
    both = [torch.autograd.grad(out.square().sum(), (queries, keys, values)) for out in (ours, theirs)]
    for own, other in zip(*both, strict=True):
        torch.testing.assert_close(own, other)
