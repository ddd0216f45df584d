"""Attention among the places of a picture that also sees a caption, and the convolution and norm around it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, scaled_dot_product_attention
from torch.overrides import has_torch_function_unary

HEAD = 32
"""Numbers of a head, where the width is a multiple of it; else half as many."""
VECTOR = 8
"""Numbers that a CPU's products take at once."""


@dataclass(frozen=True)
class Context:
    """What attention sees beside its own places: `tokens` [N,S,W], of which those in `seen` (bool [N,S]) exist."""

    tokens: Tensor
    seen: Tensor


class Convolution(nn.Module):
    """A convolution of odd `size` that keeps height and width; weights [outputs, size·size·inputs].

    As a matrix Muon can make its updates orthogonal, and in this order its numbers lie channels-last.
    """

    def __init__(self, inputs: int, outputs: int, size: int, *, zero: bool = False) -> None:
        super().__init__()
        self.form = (outputs, size, size, inputs)
        fan = size * size * inputs
        self.weight = nn.Parameter(torch.randn(outputs, fan) * (0.0 if zero else fan**-0.5))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, hidden: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H, W]."""
        kernel = self.weight.view(self.form).permute(0, 3, 1, 2)
        return conv2d(hidden, kernel, self.bias, padding=self.form[1] // 2)


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Group normalization (Wu & He 2018) with 16 channels a group."""
    return nn.GroupNorm(max(1, channels // 16), channels, affine=affine)


class Mixing(nn.Module):
    """Self-attention whose keys and values are joined by those of a caption of width `context`, if it is not 0.

    One softmax over both is cheaper than two attentions (Saharia et al. 2022, arXiv:2205.11487, appendix D.3.1).
    """

    def __init__(self, width: int, context: int = 0, *, zero: bool = True) -> None:
        super().__init__()
        self.heads = width // (HEAD if width % HEAD == 0 else HEAD // 2)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.caption = nn.Linear(context, 2 * width, bias=False) if context else None
        self.out = nn.Linear(width, width)
        if zero:
            nn.init.zeros_(self.out.weight)

    def forward(self, tokens: Tensor, context: Context | None = None, seen: Tensor | None = None) -> Tensor:
        """[N,L,width] → the same; `seen` (bool [N,L]) says which of the tokens themselves exist."""
        queries, keys, values = self._heads(self.qkv(tokens), 3)
        mask = seen
        if self.caption is not None and context is not None:
            more_keys, more_values = self._heads(self.caption(context.tokens), 2)
            keys, values = torch.cat((keys, more_keys), 2), torch.cat((values, more_values), 2)
            own = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            mask = torch.cat((own if seen is None else seen, context.seen), 1)
        mixed = attended(queries, keys, values, None if mask is None else mask[:, None, None, :])
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def _heads(self, joined: Tensor, parts: int) -> tuple[Tensor, ...]:
        """[N, L, parts·width] → `parts` of [N, heads, L, size]."""
        split = joined.view(*joined.shape[:2], parts, self.heads, -1)
        return split.permute(2, 0, 3, 1, 4).unbind(0)


def attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of [N, heads, L, size] to [N, heads, S, size] where `mask` (bool [N,1,1,S]) says so.

    On the CPU in plain products: `torch`'s own takes ten times as long for the gradient in bf16 of rows so short. But
    whoever follows the calls of torch's functions, to show where a network looks, sees only torch's own.
    """
    if not queries.is_cpu or has_torch_function_unary(queries):
        return scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    keys, values, mask = _whole_vectors(keys, values, mask)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    mixed: Tensor = scores.softmax(-1).to(values.dtype) @ values
    return mixed


def _whole_vectors(keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values with places behind them that nobody sees, as many as fill vectors of eight.

    Where a row's scores begin in the middle of a vector, their last bits depend on the row's place among the others.
    """
    places = keys.shape[2]
    if not (missing := -places % VECTOR):
        return keys, values, mask
    own = torch.ones(1, 1, 1, places, dtype=torch.bool, device=keys.device) if mask is None else mask
    behind = (0, 0, 0, missing)
    return pad(keys, behind), pad(values, behind), pad(own, behind[2:])
