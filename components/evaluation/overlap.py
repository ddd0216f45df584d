"""The longest verbatim overlap of texts with the training text, by a suffix array in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
BITS = 62
"""Bits of an int64 that a run of characters may fill."""


@dataclass(frozen=True)
class Overlap:
    """The longest piece of a text that stands in the training text: `length` characters from `start`.

    It stands in the piece number `piece` of the training text, from its character `place` on.
    """

    length: int
    start: int
    piece: int
    place: int


def longest_overlaps(train: Sequence[str], texts: Sequence[str]) -> list[Overlap]:
    """The longest substring that each of `texts` shares with one of the pieces `train`.

    All suffixes of all texts are sorted together (prefix doubling, Manber & Myers 1993, with many characters
    packed into the first key); the best match of a suffix is then the nearest suffix of `train` above or below
    it. Five million characters take seconds. Pieces are kept apart: no match crosses an end.
    """
    known, starts = _joined(train, 0)
    asked, places = _joined(texts, 1)
    _, joined = np.unique(np.concatenate([known, asked]), return_inverse=True)
    length, where = _matches(joined.astype(np.int64), len(known))
    found = []
    for first, last in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
        best = first + int(length[first:last].argmax())
        piece = int(np.searchsorted(starts, where[best], side="right")) - 1
        found.append(Overlap(int(length[best]), best - first, piece, int(where[best] - starts[piece])))
    return found


def _joined(texts: Sequence[str], end: int) -> tuple[Numbers, Numbers]:
    """The characters of all texts, moved up by two, each text ended by `end`; and where each begins, [n + 1].

    The two ends differ, so no suffix of one side matches an end of the other.
    """
    pieces = [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4") for text in texts]
    sizes = np.array([len(piece) + 1 for piece in pieces], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    joined = np.full(int(starts[-1]), end, dtype=np.int64)
    for start, piece in zip(starts.tolist(), pieces, strict=False):
        joined[start : start + len(piece)] = piece.astype(np.int64) + 2
    return joined, starts


def suffixes(values: Numbers) -> Numbers:
    """The starts of all suffixes of `values` [N], each in 0 … N, in their order."""
    size, base = len(values), int(values.max()) + 2
    depth = min(size, max(1, int(BITS / np.log2(base))))
    keys = np.zeros(size, dtype=np.int64)
    for step in range(depth):
        keys *= base
        keys[: size - step] += values[step:] + 1
    order = np.argsort(keys)
    rank = np.empty(size, dtype=np.int64)
    rank[order] = _groups(keys[order], np.arange(size))
    slots = np.flatnonzero(_shared(rank[order]))
    while len(slots):
        active = order[slots]
        after = active + depth
        behind = np.where(after < size, rank[np.minimum(after, size - 1)] + 1, 0)
        keys = rank[active] * (size + 1) + behind
        inner = np.argsort(keys)
        order[slots] = active[inner]
        rank[order[slots]] = _groups(keys[inner], slots)
        slots = slots[_shared(rank[order[slots]])]
        depth *= 2
    return order


def _groups(keys: Numbers, slots: Numbers) -> Numbers:
    """For each of sorted `keys`, the slot of the first that is equal."""
    new = np.concatenate([[True], keys[1:] != keys[:-1]])
    return np.maximum.accumulate(np.where(new, slots, 0))


def _shared(ranks: Numbers) -> NDArray[np.bool_]:
    """Which of sorted `ranks` stand more than once."""
    same = ranks[1:] == ranks[:-1]
    several: NDArray[np.bool_] = np.concatenate([same, [False]]) | np.concatenate([[False], same])
    return several


def _matches(joined: Numbers, known: int) -> tuple[Numbers, Numbers]:
    """For each value behind the first `known`: how many from there on stand among those, and where."""
    order = suffixes(joined)
    trained = order < known
    slots = np.arange(len(order))
    above = np.maximum.accumulate(np.where(trained, slots, -1))
    below = np.minimum.accumulate(np.where(trained, slots, len(order))[::-1])[::-1]
    asked = np.flatnonzero(~trained)
    length = np.zeros(len(joined) - known, dtype=np.int64)
    where = np.zeros_like(length)
    for near in (above[asked], below[asked]):
        inside = (near >= 0) & (near < len(order))
        own, other = order[asked[inside]], order[near[inside]]
        common = _common(joined, own, other)
        better = common > length[own - known]
        length[own[better] - known], where[own[better] - known] = common[better], other[better]
    return length, where


def _common(joined: Numbers, own: Numbers, other: Numbers) -> Numbers:
    """How many values from each `own` place on equal those from `other` on; at an end they differ."""
    common = np.zeros(len(own), dtype=np.int64)
    open_pairs = np.arange(len(own))
    while len(open_pairs):
        at = common[open_pairs]
        equal = joined[own[open_pairs] + at] == joined[other[open_pairs] + at]
        open_pairs = open_pairs[equal]
        common[open_pairs] += 1
    return common
