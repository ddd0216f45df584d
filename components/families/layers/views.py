"""What queries see: a whole row in training, a chunk of a prompt behind what has entered, or one token of each row.

A view carries the rotary positions of its tokens and mixes the values for one layer; where a cache is used, it
first writes the layer's new keys and values into it.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from components.families.layers.documents import beginnings, later


class View(Protocol):
    """How attention mixes values."""

    rotation: Tensor
    """The rotary table of the tokens, [2, ..., L, 1, size]."""

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Queries [N, L, heads, size], keys and values [N, L, kv_heads, size] → [N, L, heads, size]."""


def attended(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool = False
) -> Tensor:
    """Attention of [N, heads, L, size] to [N, kv_heads, S, size], laid out as [N, L, heads, size]."""
    grouped = keys.shape[1] < queries.shape[1]
    mixed = scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return mixed.transpose(1, 2)


class Whole:
    """All tokens of every row see each other as `mask` (bool [N, 1, L or 1, L]) says; without one, backwards."""

    def __init__(self, rotation: Tensor, mask: Tensor | None) -> None:
        self.rotation, self.mask = rotation, mask

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`."""
        queries, keys, values = queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        return attended(queries, keys, values, self.mask, causal=self.mask is None)


class Entering:
    """A chunk of one row, [1, L], whose first token stands at place `first`.

    `cache` [layers, 2, kv_heads, T, size] is the row's; `begin` [1, L] is where each token's document begins.
    """

    def __init__(self, rotation: Tensor, cache: Tensor, first: int, begin: Tensor) -> None:
        self.first, self.last = first, first + begin.shape[1]
        self.rotation, self.cache = rotation[:, first : self.last, None], cache
        self.mask = visible(begin, first) if first or bool(begin.any()) else None

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`."""
        own = self.cache[layer]
        own[0, :, self.first : self.last] = keys[0].transpose(0, 1)
        own[1, :, self.first : self.last] = values[0].transpose(0, 1)
        seen = own[:, None, :, : self.last]
        return attended(queries.transpose(1, 2), seen[0], seen[1], self.mask, causal=self.mask is None)


class Stepping:
    """One token of each row, [R, 1], at the row's own place [R]; its document begins at `begin` [R].

    `cache` is [R, layers, 2, kv_heads, T, size].
    """

    def __init__(self, rotation: Tensor, cache: Tensor, place: Tensor, begin: Tensor) -> None:
        self.rotation, self.cache = rotation[:, place, None, None], cache
        rows, _, _, heads, length, size = cache.shape
        self.index = place.view(-1, 1, 1, 1, 1).expand(-1, 2, heads, 1, size)
        self.bias = _bias(begin, place, length).expand(-1, heads, -1).reshape(rows * heads, 1, length)

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`; the queries that share a key stand beside each other, as if they were one sequence.

        Two batched products take two thirds of the time of `scaled_dot_product_attention` for single queries.
        """
        own, (rows, _, heads, size) = self.cache[:, layer], keys.shape
        own.scatter_(3, self.index, torch.stack((keys, values), dim=1).view(rows, 2, heads, 1, size))
        seen, held = own[:, 0].flatten(0, 1), own[:, 1].flatten(0, 1)
        grouped = queries.reshape(rows * heads, -1, size)
        scores = torch.baddbmm(self.bias, grouped, seen.mT, alpha=size**-0.5)
        return torch.bmm(scores.softmax(2), held).view(rows, 1, -1, size)


def boundaries(tokens: Tensor) -> Tensor | None:
    """Which of `tokens` [N, L] see which, bool [N, 1, L, L]; None, for causal, if no row has a second document."""
    boundary = later(tokens)
    return None if boundary is None else visible(beginnings(boundary))


def visible(begin: Tensor, first: int = 0) -> Tensor:
    """Which keys each query sees, bool [N, 1, L, first + L]: those of its own document up to itself.

    `begin` [N, L] is where the document of each query begins; the first query stands at place `first`.
    """
    keys = torch.arange(first + begin.shape[1], device=begin.device)
    queries = keys[first:, None]
    return ((keys <= queries) & (keys >= begin[:, :, None]))[:, None]


def _bias(first: Tensor, last: Tensor, length: int) -> Tensor:
    """0 for the keys from `first` [R] to `last` [R], −∞ for the others, [R, 1, length]."""
    keys = torch.arange(length, device=first.device)
    hidden = (keys < first[:, None]) | (keys > last[:, None])
    return torch.zeros(hidden.shape, device=first.device).masked_fill_(hidden, float("-inf"))[:, None]


def empty_cache(
    rows: int, layers: int, kv_heads: int, length: int, size: int, device: torch.device
) -> Tensor:
    """Zeros [rows, layers, 2, kv_heads, length, size]; in memory the layers come first, so each is contiguous."""
    return torch.zeros(layers, 2, rows, kv_heads, length, size, device=device).permute(2, 0, 1, 3, 4, 5)
