"""Attention with rotary positions and grouped queries, and the block that GPT and the encoder–decoder stack.

The computation is that of Qwen3 (with `qk_norm`) and of Llama (without) as `transformers` has them: no biases,
RMS norms with ε = 1e-6, rotation of the two halves of a head. The matrices of queries, keys and values are one,
and so are those of gate and up, because one product of twice the size is faster than two; their rows follow each
other in this order, so an exporter can split them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, silu

from components.families.layers.norm import RMSNorm, normed
from components.families.layers.views import View, attended

DEVIATION = 0.02
"""The standard deviation of fresh weights."""


def rotations(length: int, size: int, theta: float) -> Tensor:
    """The rotary table [2, length, size] (Su et al. 2021, arXiv:2104.09864): cosines, and sines with their sign.

    Of a head's `size` numbers, number i and number i + size/2 are one point that turns by theta^(−2i/size) a place.
    """
    frequency = 1.0 / (theta ** (torch.arange(0, size, 2).float() / size))
    angle = torch.arange(length).float()[:, None] * frequency
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack((torch.cat((cosine, cosine), dim=1), torch.cat((-sine, sine), dim=1)))


def _turn(heads: Tensor, rotation: Tensor, sign: float) -> Tensor:
    """`heads` turned forwards (`sign` 1) or backwards (−1), half by half, so that nothing is copied."""
    half = heads.shape[-1] // 2
    cosine, sine = rotation.to(heads.dtype)
    turned: Tensor = heads * cosine
    turned[..., :half].addcmul_(heads[..., half:], sine[..., :half], value=sign)
    turned[..., half:].addcmul_(heads[..., :half], sine[..., half:], value=sign)
    return turned


class _Rotated(torch.autograd.Function):
    """A rotation; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, heads: Tensor, rotation: Tensor) -> Tensor:
        ctx.save_for_backward(rotation)
        return _turn(heads, rotation, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rotation,) = ctx.saved_tensors
        return _turn(gradients[0], rotation, -1.0), None


def rotated(heads: Tensor, rotation: Tensor) -> Tensor:
    """`heads` [..., L, H, size] turned by `rotation` [2, ..., L, 1, size]."""
    if torch.is_grad_enabled():
        turned: Tensor = _Rotated.apply(heads, rotation)  # type: ignore[no-untyped-call]
        return turned
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * rotation[0], swapped, rotation[1])


class Attention(nn.Module):
    """Multi-head attention with rotary positions; `kv_heads` keys and values serve all heads (arXiv:2305.13245)."""

    def __init__(self, width: int, heads: int, kv_heads: int, qk_norm: bool, size: int = 0) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, size or width // heads
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)
        # the weights of the norms of queries (row 0) and keys (row 1)
        self.scale = nn.Parameter(torch.ones(2, self.size)) if qk_norm else None
        self.register_buffer("which", torch.tensor([0] * heads + [1] * kv_heads), persistent=False)
        self.which: Tensor

    @property
    def parts(self) -> tuple[int, int, int]:
        """The rows of `qkv` that make queries, keys and values."""
        return self.heads * self.size, self.kv_heads * self.size, self.kv_heads * self.size

    def forward(self, inputs: Tensor, view: View, layer: int) -> Tensor:
        """[N, L, width] → the same."""
        every = self.qkv(inputs).unflatten(-1, (-1, self.size))
        turning, values = every.split_with_sizes((self.heads + self.kv_heads, self.kv_heads), dim=2)
        if self.scale is not None:
            turning = normed(turning, self.scale[self.which])
        turned = rotated(turning, view.rotation).to(values.dtype)
        queries, keys = turned.split_with_sizes((self.heads, self.kv_heads), dim=2)
        output: Tensor = self.out(view.mix(layer, queries, keys, values).flatten(2))
        return output


class CrossAttention(nn.Module):
    """Attention whose keys and values come from a source, without positions (Vaswani et al. 2017, section 3.2.3)."""

    def __init__(self, width: int, heads: int, kv_heads: int, qk_norm: bool, size: int = 0) -> None:
        super().__init__()
        self.kv_heads, self.size = kv_heads, size or width // heads
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key_value = nn.Linear(width, 2 * kv_heads * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)
        self.query_norm = RMSNorm(self.size) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(self.size) if qk_norm else nn.Identity()

    @property
    def parts(self) -> tuple[int, int]:
        """The rows of `key_value` that make keys and values."""
        return self.kv_heads * self.size, self.kv_heads * self.size

    def remember(self, source: Tensor) -> Tensor:
        """The encoded source [N, S, width] → its keys and values [N, 2, kv_heads, S, size]."""
        both = self.key_value(source).unflatten(2, (2, self.kv_heads, self.size)).permute(0, 2, 3, 1, 4)
        return torch.stack((self.key_norm(both[:, 0]), both[:, 1]), dim=1)

    def forward(self, inputs: Tensor, remembered: Tensor, reach: Tensor) -> Tensor:
        """[N, L, width] → the same; `reach` bool [N, 1, 1, S] says which of the source there is."""
        queries = self.query_norm(self.query(inputs).unflatten(2, (-1, self.size))).transpose(1, 2)
        mixed = attended(queries, remembered[:, 0], remembered[:, 1], reach)
        output: Tensor = self.out(mixed.flatten(2))
        return output


class _Gated(torch.autograd.Function):
    """silu(gate) ⊙ up; the gradient of the fused input is written where it belongs, without a copy."""

    @staticmethod
    def forward(ctx: Any, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        opened = silu(gate)
        ctx.save_for_backward(both, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        both, opened = ctx.saved_tensors
        (gate, up), slope = both.chunk(2, dim=-1), torch.empty_like(both)
        of_gate, of_up = slope.chunk(2, dim=-1)
        torch.mul(gradients[0], opened, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=of_gate)
        return slope


def gated(both: Tensor) -> Tensor:
    """silu(gate) ⊙ up, [..., hidden], of the two side by side, [..., 2 × hidden]."""
    if torch.is_grad_enabled():
        output: Tensor = _Gated.apply(both)  # type: ignore[no-untyped-call]
        return output
    gate, up = both.chunk(2, dim=-1)
    return silu(gate) * up


class SwiGLU(nn.Module):
    """W₃(silu(W₁x) ⊙ W₂x) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., width] → the same."""
        output: Tensor = self.down(gated(self.gate_up(inputs)))
        return output


class Block(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); dropout acts on what is added.

    With `cross` there is x + cross(norm(x)) between the two.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        hidden: int,
        qk_norm: bool,
        dropout: float,
        size: int = 0,
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.attention_norm = RMSNorm(width)
        self.attention = Attention(width, heads, kv_heads, qk_norm, size)
        self.cross = CrossAttention(width, heads, kv_heads, qk_norm, size) if cross else None
        self.cross_norm = RMSNorm(width) if cross else None
        self.mlp_norm = RMSNorm(width)
        self.mlp = SwiGLU(width, hidden)

    def forward(
        self, inputs: Tensor, view: View, layer: int, source: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """[N, L, width] → the same; `source` is what `CrossAttention` remembers of it and where there is any."""
        inputs = inputs + self._drop(self.attention(self.attention_norm(inputs), view, layer))
        if self.cross is not None and self.cross_norm is not None and source is not None:
            inputs = inputs + self._drop(self.cross(self.cross_norm(inputs), *source))
        return inputs + self._drop(self.mlp(self.mlp_norm(inputs)))

    def _drop(self, update: Tensor) -> Tensor:
        return dropout(update, self.dropout, self.training) if self.dropout else update


def swiglu_width(width: int) -> int:
    """8/3 of `width`, so that three matrices are as large as two of 4 × `width`; a multiple of 32."""
    return -(-width // 12) * 32


def check_heads(width: int, heads: int, kv_heads: int, size: int = 0) -> None:
    """Raise ValueError if a head has no even number of numbers, or the heads no share for each of `kv_heads`."""
    if size % 2:
        raise ValueError(f"size = {size} is odd; rotary positions turn pairs of numbers")
    if not size and width % (2 * heads):
        raise ValueError(f"width = {width} is not a multiple of twice the heads, {2 * heads}")
    if kv_heads and heads % kv_heads:
        raise ValueError(f"kv_heads = {kv_heads} does not divide the heads, {heads}")


def initialise(network: nn.Module) -> None:
    """Small normal matrices, but zeros where a block adds to its input, so that it begins as the identity."""
    for name, weight in network.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            nn.init.zeros_(weight)
        elif weight.dim() == 2 and not name.endswith("scale"):
            nn.init.normal_(weight, std=DEVIATION)
