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

BLOCK = 256
"""The places of a cache that are looked at together."""


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

    `cache` [layers, 2, kv_heads, blocks, B, size] is the row's; `begin` [1, L] is where each token's document begins.
    """

    def __init__(self, rotation: Tensor, cache: Tensor, first: int, begin: Tensor) -> None:
        self.first, self.last = first, first + begin.shape[1]
        self.rotation, self.cache = rotation[:, first : self.last, None], cache
        self.mask = visible(begin, first) if first or bool(begin.any()) else None

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`."""
        own, size = self.cache[layer], self.cache.shape[-2]
        place = torch.arange(self.first, self.last, device=keys.device)
        own[:, :, place // size, place % size] = torch.cat((keys, values)).transpose(1, 2)
        used = own[:, :, : -(-self.last // size)].flatten(2, 3)[:, None, :, : self.last]
        return attended(queries.transpose(1, 2), used[0], used[1], self.mask, causal=self.mask is None)


class Stepping:
    """One token of each row, [R, 1], at the row's own place [R]; its document begins at `begin` [R].

    `cache` is [R, layers, 2, kv_heads, blocks, B, size].
    """

    def __init__(self, rotation: Tensor, cache: Tensor, place: Tensor, begin: Tensor) -> None:
        self.rotation, self.place = rotation[:, place, None, None], place
        self.cache, self.lying = cache, cache.permute(1, 2, 4, 0, 3, 5, 6)  # as it lies in memory
        layers, _, blocks, rows, heads, size, _ = self.lying.shape
        self.layers, *self.index = _grid(place.device, layers, rows, 2, heads)
        self.at = torch.div(place, size, rounding_mode="floor")[:, None, None], (place % size)[:, None, None]
        self.slots = None if torch.compiler.is_compiling() else self._slots()
        bias = _bias(begin, place, blocks * size).view(rows, 1, blocks, 1, size).expand(-1, heads, -1, -1, -1)
        self.bias = bias.permute(2, 0, 1, 3, 4).reshape(blocks, rows * heads, 1, size)

    def _slots(self) -> Tensor:
        """Which numbers of the cache, by `size` as it lies in memory, are a token's, [layers, R × 2 × kv_heads]."""
        layers, _, blocks, rows, heads, size, _ = self.lying.shape
        (row, half, head), (block, within) = self.index, self.at
        own = (((half * blocks + block) * rows + row) * heads + head) * size + within
        return (self.layers[:, None] * (2 * blocks * rows * heads * size) + own.flatten()).view(layers, -1)

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`; the queries that share a key stand beside each other, as if they were one sequence."""
        rows, _, heads, size = keys.shape
        fresh = torch.stack((keys, values), dim=1).squeeze(2)
        if self.slots is None:  # a compiler writes in place only what it is told in the cache's own axes
            row, half, head = self.index
            self.cache.index_put_((row, self.layers[layer], half, head, *self.at), fresh)
        else:
            self.lying.view(-1, size).index_put_((self.slots[layer],), fresh.view(-1, size))
        grouped = queries.reshape(rows * heads, -1, size)
        mixed = over_blocks(grouped, self.lying[layer].flatten(2, 3), self.bias, self.place)
        return mixed.view(rows, 1, -1, size)


def over_blocks(queries: Tensor, held: Tensor, bias: Tensor, place: Tensor) -> Tensor:
    """Attention of queries [N, G, size] to `held` [2, blocks, N, B, size] with `bias` [blocks, N, 1, B].

    Blocks behind the farthest `place` [R] are not looked at. Each block is computed in the same shape whether others
    are or not, and adding those that nobody sees adds zeros, so a row's bits do not depend on its neighbours' places.
    Two batched products take two thirds of the time of `scaled_dot_product_attention` for single queries.
    """
    if len(bias) == 1:
        scores = torch.baddbmm(bias[0], queries, held[0, 0].mT, alpha=queries.shape[-1] ** -0.5)
        return torch.bmm(scores.softmax(2), held[1, 0])
    mixed: Tensor = _blockwise(queries, held, bias, place)
    return mixed


# an operation of its own: how many blocks are used is a number that tracing would fix
@torch.library.custom_op("genloom::blockwise", mutates_args=())
def _blockwise(queries: Tensor, held: Tensor, bias: Tensor, place: Tensor) -> Tensor:
    size, (many, group, width) = bias.shape[-1], queries.shape
    used = int(place.max()) // size + 1
    (keys, values), again = held[:, :used].flatten(1, 2), queries
    if used > 1:
        again = queries.expand(used, -1, -1, -1).reshape(used * many, group, width)
    scores = torch.baddbmm(bias[:used].flatten(0, 1), again, keys.mT, alpha=width**-0.5)
    scores = scores.view(used, many, group, size)
    weights = scores.sub_(scores.amax((0, 3), keepdim=True)).exp_()
    parts = torch.bmm(weights.flatten(0, 1), values).view(used, many, group, width)
    return _added(parts).div_(_added(weights.sum(3, keepdim=True)))


def _added(parts: Tensor) -> Tensor:
    """The sum over the first axis, one after the other, so that zeros at the end change no bit."""
    return parts[0] if len(parts) == 1 else parts.cumsum(0)[-1]


@_blockwise.register_fake
def _(queries: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(queries)


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


def _grid(device: torch.device, layers: int, *sizes: int) -> tuple[Tensor, ...]:
    """The numbers of the layers [layers], and of each of the three axes of `sizes`, each along its own axis."""
    first, second, third = (torch.arange(size, device=device) for size in sizes)
    return torch.arange(layers, device=device), first[:, None, None], second[:, None], third


def empty_cache(
    rows: int, layers: int, kv_heads: int, length: int, size: int, device: torch.device
) -> Tensor:
    """Zeros [rows, layers, 2, kv_heads, blocks, B, size] for `length` places, B to a block.

    In memory layers, halves and blocks come first, so that the first blocks of a layer's keys lie side by side.
    """
    block = min(length, BLOCK)
    blocks = -(-length // block)
    shape = (layers, 2, blocks, rows, kv_heads, block, size)
    return torch.zeros(shape, device=device).permute(3, 0, 1, 4, 2, 5, 6)
