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

BLOCK = 64
"""Places of a cache that are looked at or left out together."""


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

    `cache` [layers, 2, kv_heads, places, size] is the row's; `begin` [1, L] is where each token's document begins.
    """

    def __init__(self, rotation: Tensor, cache: Tensor, first: int, begin: Tensor) -> None:
        self.first, self.last = first, first + begin.shape[1]
        self.rotation, self.cache = rotation[:, first : self.last, None], cache
        self.mask = visible(begin, first) if first or bool(begin.any()) else None

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`."""
        own = self.cache[layer]
        own[:, :, self.first : self.last] = torch.cat((keys, values)).transpose(1, 2)
        used = own[:, None, :, : self.last]
        return attended(queries.transpose(1, 2), used[0], used[1], self.mask, causal=self.mask is None)


class Stepping:
    """One token of each row, [R, 1], at the row's own place [R]; its document begins at `begin` [R].

    `cache` is [R, layers, 2, kv_heads, places, size].
    """

    def __init__(self, rotation: Tensor, cache: Tensor, place: Tensor, begin: Tensor) -> None:
        self.rotation, self.place = rotation[:, place, None, None], place
        self.cache, self.lying = cache, cache.permute(1, 2, 0, 3, 4, 5)  # as it lies in memory
        layers, _, rows, heads, places, _ = self.lying.shape
        self.layers, *self.index = _grid(place.device, layers, rows, 2, heads)
        self.slots = None if torch.compiler.is_compiling() else self._slots()
        bias = _bias(begin, place, places).expand(-1, heads, -1)
        self.bias = bias.reshape(rows * heads, 1, places)

    def _slots(self) -> Tensor:
        """Which numbers of the cache, by `size` as it lies in memory, are a token's, [layers, R × 2 × kv_heads]."""
        layers, _, rows, heads, places, _ = self.lying.shape
        row, half, head = self.index
        own = ((half * rows + row) * heads + head) * places + self.place[:, None, None]
        return (self.layers[:, None] * (2 * rows * heads * places) + own.flatten()).view(layers, -1)

    def mix(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `View`; the queries that share a key stand beside each other, as if they were one sequence."""
        rows, _, heads, size = keys.shape
        fresh = torch.stack((keys, values), dim=1).squeeze(2)
        if self.slots is None:  # a compiler writes in place only what it is told in the cache's own axes
            row, half, head = self.index
            at = (row, self.layers[layer], half, head, self.place[:, None, None])
            self.cache.index_put_(at, fresh)
        else:
            self.lying.view(-1, size).index_put_((self.slots[layer],), fresh.view(-1, size))
        grouped = queries.reshape(rows * heads, -1, size)
        held = self.lying[layer].flatten(1, 2)
        mixed: Tensor = used_alone(grouped, held[0], held[1], self.bias, self.place)
        return mixed.view(rows, 1, -1, size)


def _used_alone(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, place: Tensor) -> Tensor:
    """Attention of queries [N, G, size] to [N, places, size] with `bias` [N, 1, places].

    What lies behind the farthest `place` [R] is not looked at, by whole blocks: places that nobody sees add zeros, in
    whole vectors, so a row's bits do not depend on its neighbours' places. Two batched products take two thirds of the
    time of `scaled_dot_product_attention` for single queries, whose bits also depend on the thread that computes them.
    A GPU looks at all of them: it adds in another order for each number of places, and to ask it for the farthest one
    would be to wait for it once a layer.
    """
    used = keys.shape[1] if place.is_cuda else (int(place.max()) // BLOCK + 1) * BLOCK
    scores = torch.baddbmm(bias[..., :used], queries, keys[:, :used].mT, alpha=queries.shape[-1] ** -0.5)
    return torch.bmm(scores.softmax(2), values[:, :used])


# an operation of its own: how many places are used is a number that tracing would fix
_library = torch.library.Library("genloom", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "used_alone(Tensor queries, Tensor keys, Tensor values, Tensor bias, Tensor place) -> Tensor"
)
_library.impl("used_alone", _used_alone, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake(
    "genloom::used_alone", lambda queries, *_: torch.empty_like(queries), lib=_library
)
used_alone = torch.ops.genloom.used_alone.default


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
    """Zeros [rows, layers, 2, kv_heads, places, size] for `length` places, in whole blocks if these are several.

    In memory layers and halves come first, so that a layer's keys lie side by side.
    """
    places = length if length <= BLOCK else -(-length // BLOCK) * BLOCK
    return torch.zeros(layers, 2, rows, kv_heads, places, size, device=device).permute(2, 0, 1, 3, 4, 5)
