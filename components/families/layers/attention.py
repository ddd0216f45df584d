"""Attention with rotary positions and grouped queries, and the block that GPT and the encoder–decoder stack.

The computation is that of Qwen3 (with `qk_norm`) and of Llama (without) as `transformers` has them: no biases,
RMS norms with ε = 1e-6, rotation of the two halves of a head. The matrices of queries, keys and values are one,
and so are those of gate and up, because one product of twice the size is faster than two; their rows follow each
other in this order, so an exporter can split them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, rms_norm, scaled_dot_product_attention, silu

from components.families.layers.documents import beginnings, later

EPSILON = 1e-6
"""What the RMS norms add to the mean square."""
DEVIATION = 0.02
"""The standard deviation of fresh weights."""


def rotations(length: int, size: int, theta: float) -> Tensor:
    """The rotary table [2, length, size] (Su et al. 2021, arXiv:2104.09864): cosines, and sines with their sign.

    Of a head's `size` numbers, number i and number i + size/2 are one point that turns by theta^(−2i/size) a place.
    """
    frequency = 1.0 / (theta ** (torch.arange(0, size, 2).float() / size))
    angle = torch.arange(length).float()[:, None] * frequency
    return torch.stack(
        (torch.cat((angle.cos(), angle.cos()), dim=1), torch.cat((-angle.sin(), angle.sin()), dim=1))
    )


def rotated(heads: Tensor, rotation: Tensor) -> Tensor:
    """`heads` [..., L, H, size] turned by `rotation` [2, ..., L, 1, size]."""
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    return torch.addcmul(heads * rotation[0], swapped, rotation[1])


def visible(begin: Tensor, first: int = 0) -> Tensor:
    """Which keys each query sees, bool [N, 1, L, first + L]: those of its own document up to itself.

    `begin` [N, L] is where the document of each query begins; the first query stands at place `first`.
    """
    keys = torch.arange(first + begin.shape[1], device=begin.device)
    queries = keys[first:, None]
    return ((keys <= queries) & (keys >= begin[:, :, None]))[:, None]


def boundaries(tokens: Tensor) -> Tensor | None:
    """Which tokens see which, bool [N, 1, L, L]; None, for causal, if no row has a second document."""
    boundary = later(tokens)
    return None if boundary is None else visible(beginnings(boundary))


class Attention(nn.Module):
    """Multi-head attention with rotary positions; `kv_heads` keys and values serve all heads (arXiv:2305.13245)."""

    def __init__(self, width: int, heads: int, kv_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads, width // heads
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

    def project(self, inputs: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., L, width] → queries [..., L, heads, size], keys and values [..., L, kv_heads, size]."""
        every = self.qkv(inputs).unflatten(-1, (-1, self.size))
        turning, values = every.split_with_sizes((self.heads + self.kv_heads, self.kv_heads), dim=-2)
        if self.scale is not None:
            turning = rms_norm(turning, (self.size,), eps=EPSILON) * self.scale[self.which]
        queries, keys = rotated(turning, rotation).split_with_sizes((self.heads, self.kv_heads), dim=-2)
        return queries, keys, values

    def forward(self, inputs: Tensor, rotation: Tensor, mask: Tensor | None, causal: bool = True) -> Tensor:
        """[N, L, width] → the same; `mask` bool [N, 1, L, L] or None, which stands for causal or everything."""
        queries, keys, values = (part.transpose(1, 2) for part in self.project(inputs, rotation))
        mixed = scaled_dot_product_attention(
            queries,
            keys.to(values.dtype),
            values,
            attn_mask=mask,
            is_causal=causal and mask is None,
            enable_gqa=self.kv_heads < self.heads,
        )
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def enter(
        self, inputs: Tensor, rotation: Tensor, mask: Tensor | None, cache: Tensor, first: int
    ) -> Tensor:
        """[1, L, width] of one row from place `first` on → the same; `cache` [2, kv_heads, T, size] is written.

        `mask` is bool [1, 1, L, first + L].
        """
        queries, keys, values = (part.transpose(1, 2) for part in self.project(inputs, rotation))
        last = first + inputs.shape[1]
        cache[0, :, first:last], cache[1, :, first:last] = keys[0], values[0]
        mixed = scaled_dot_product_attention(
            queries,
            cache[None, 0, :, :last],
            cache[None, 1, :, :last],
            attn_mask=mask,
            is_causal=mask is None,
            enable_gqa=self.kv_heads < self.heads,
        )
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output

    def step(self, inputs: Tensor, rotation: Tensor, cache: Tensor, place: Tensor, bias: Tensor) -> Tensor:
        """[R, width], one token of each row → the same; `cache` [R, 2, kv_heads, T, size] is written at `place`.

        `place` is [R, 2, kv_heads, 1, size]; `bias` [R, 1, 1, T] is 0 where a key is seen and −∞ elsewhere.
        """
        queries, keys, values = self.project(inputs, rotation)
        cache.scatter_(3, place, torch.stack((keys, values), dim=1).unsqueeze(3))
        # the queries that share a key stand beside each other, as if they were one sequence
        grouped = queries.reshape(len(inputs), self.kv_heads, -1, self.size)
        mixed = scaled_dot_product_attention(grouped, cache[:, 0], cache[:, 1], attn_mask=bias)
        output: Tensor = self.out(mixed.reshape(len(inputs), -1))
        return output


class SwiGLU(nn.Module):
    """W₃(silu(W₁x) ⊙ W₂x) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., width] → the same."""
        gate, up = self.gate_up(inputs).chunk(2, dim=-1)
        output: Tensor = self.down(silu(gate) * up)
        return output


class Block(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)); dropout stands on what is added."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, hidden: int, qk_norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads, kv_heads, qk_norm)
        self.mlp_norm = nn.RMSNorm(width, eps=EPSILON)
        self.mlp = SwiGLU(width, hidden)
        self.dropout = dropout

    def forward(self, inputs: Tensor, rotation: Tensor, mask: Tensor | None, causal: bool = True) -> Tensor:
        """[N, L, width] → the same; see `Attention`."""
        inputs = inputs + self._drop(self.attention(self.attention_norm(inputs), rotation, mask, causal))
        return inputs + self._drop(self.mlp(self.mlp_norm(inputs)))

    def enter(
        self, inputs: Tensor, rotation: Tensor, mask: Tensor | None, cache: Tensor, first: int
    ) -> Tensor:
        """[1, L, width] → the same; see `Attention.enter`."""
        inputs = inputs + self.attention.enter(self.attention_norm(inputs), rotation, mask, cache, first)
        output: Tensor = inputs + self.mlp(self.mlp_norm(inputs))
        return output

    def step(self, inputs: Tensor, rotation: Tensor, cache: Tensor, place: Tensor, bias: Tensor) -> Tensor:
        """[R, width] → the same; see `Attention.step`."""
        inputs = inputs + self.attention.step(self.attention_norm(inputs), rotation, cache, place, bias)
        output: Tensor = inputs + self.mlp(self.mlp_norm(inputs))
        return output

    def _drop(self, update: Tensor) -> Tensor:
        return dropout(update, self.dropout, self.training) if self.dropout else update


def empty_cache(
    rows: int, layers: int, kv_heads: int, length: int, size: int, device: torch.device
) -> Tensor:
    """Zeros [rows, layers, 2, kv_heads, length, size]; in memory the layers come first, so each is contiguous."""
    return torch.zeros(layers, 2, rows, kv_heads, length, size, device=device).permute(2, 0, 1, 3, 4, 5)


def sight(first: Tensor, last: Tensor, length: int) -> Tensor:
    """The bias [R, 1, 1, length] of one query a row that sees the keys from `first` [R] to `last` [R]."""
    keys = torch.arange(length, device=first.device)
    hidden = (keys < first[:, None]) | (keys > last[:, None])
    bias = torch.zeros(hidden.shape, device=first.device).masked_fill_(hidden, float("-inf"))
    return bias[:, None, None]


def swiglu_width(width: int) -> int:
    """8/3 of `width`, so that three matrices are as large as two of 4 × `width`; a multiple of 32."""
    return -(-width // 12) * 32


def check_heads(width: int, heads: int, kv_heads: int) -> None:
    """Raise ValueError if `width` has no even share for each head, or the heads none for each of `kv_heads`."""
    if width % (2 * heads):
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
