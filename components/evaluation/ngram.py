"""The trivial model of text: interpolated n-grams of tokens, smoothed as Witten & Bell 1991 do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.families.family import END, NOTHING

Numbers = NDArray[np.int64]
ORDER = 3


@dataclass(frozen=True)
class Counts:
    """The n-grams of one order: `following` are the last tokens, in the order of their histories.

    History `histories[i]` was followed by `following[first[i]:first[i + 1]]`, once for each time that it was, and by
    `kinds[i]` different tokens; `pairs` and `seen` are the different n-grams, as numbers, and how often each was.
    """

    histories: Numbers
    first: Numbers
    kinds: Numbers
    following: Numbers
    pairs: Numbers
    seen: Numbers


@dataclass(frozen=True)
class Ngrams:
    """P(w|h) = (c(hw) + T(h) P(w|h′)) / (c(h) + T(h)), T(h) the number of different tokens seen behind h.

    h′ is h without its oldest token; below the empty history every token has the probability 1 / `vocabulary`.
    """

    vocabulary: int
    orders: tuple[Counts, ...]

    def probabilities(self, history: Numbers, token: Numbers) -> NDArray[np.float64]:
        """P(token|history) for `history` [N, ORDER − 1], the oldest first, and `token` [N]."""
        found = np.full(len(token), 1.0 / self.vocabulary)
        for order, counts in enumerate(self.orders):
            key = _key(history, order, self.vocabulary)
            total, kinds, _ = _looked_up(counts, key)
            pair = key * self.vocabulary + token
            place = np.minimum(np.searchsorted(counts.pairs, pair), len(counts.pairs) - 1)
            often = np.where(counts.pairs[place] == pair, counts.seen[place], 0)
            found = np.where(total > 0, (often + kinds * found) / np.maximum(total + kinds, 1), found)
        return found

    def nats(self, rows: Numbers, given: Numbers) -> tuple[NDArray[np.float64], Numbers]:
        """−log p of the tokens of each row [N, T] from its place `given` [N] on, and how many they are."""
        history, token, row, place = _windows(rows)
        counted = place >= given[row]
        log = -np.log(self.probabilities(history[counted], token[counted]))
        total = np.bincount(row[counted], log, len(rows)).astype(np.float64)
        return total, np.bincount(row[counted], minlength=len(rows)).astype(np.int64)

    def sample(self, count: int, most: int, seed: int) -> Numbers:
        """`count` documents of at most `most` tokens, [count, most], padded with `NOTHING`; without their `END`."""
        generator = np.random.default_rng(seed)
        output = np.full((count, most), NOTHING, dtype=np.int64)
        history = np.full((count, ORDER - 1), END, dtype=np.int64)
        running = np.ones(count, dtype=bool)
        for step in range(most):
            token = self._draw(history, generator)
            running &= token != END
            if not running.any():
                break
            output[running, step] = token[running]
            history = np.concatenate([history[:, 1:], token[:, None]], 1)
        return output

    def _draw(self, history: Numbers, generator: np.random.Generator) -> Numbers:
        """A token behind each history: from the longest that its chance lets it keep, one of those that followed."""
        token = generator.integers(self.vocabulary, size=len(history))
        for order, counts in enumerate(self.orders):
            total, kinds, first = _looked_up(counts, _key(history, order, self.vocabulary))
            keep = generator.random(len(history)) * (total + kinds) < total
            chosen = first + (generator.random(len(history)) * total).astype(np.int64)
            token = np.where(keep, counts.following[np.minimum(chosen, len(counts.following) - 1)], token)
        return token


def fit(rows: Numbers, vocabulary: int) -> Ngrams:
    """The n-grams of rows [N, T] padded with `NOTHING`, of which the first token is given."""
    history, token, _, _ = _windows(rows)
    return Ngrams(
        vocabulary,
        tuple(_count(_key(history, order, vocabulary), token, vocabulary) for order in range(ORDER)),
    )


def _count(key: Numbers, token: Numbers, vocabulary: int) -> Counts:
    pairs = np.sort(key * vocabulary + token)
    different, seen = np.unique(pairs, return_counts=True)
    histories, first = np.unique(pairs // vocabulary, return_index=True)
    kinds = np.unique(different // vocabulary, return_counts=True)[1]
    bounds = np.append(first, len(pairs)).astype(np.int64)
    return Counts(
        histories, bounds, kinds.astype(np.int64), pairs % vocabulary, different, seen.astype(np.int64)
    )


def _looked_up(counts: Counts, key: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """For each history: how often it was followed, by how many different tokens, and where these begin."""
    place = np.minimum(np.searchsorted(counts.histories, key), len(counts.histories) - 1)
    known = counts.histories[place] == key
    total = np.where(known, counts.first[place + 1] - counts.first[place], 0)
    return total, np.where(known, counts.kinds[place], 0), counts.first[place]


def _key(history: Numbers, order: int, vocabulary: int) -> Numbers:
    """The newest `order` tokens of each history [N, H] as one number."""
    key = np.zeros(len(history), dtype=np.int64)
    for back in range(order, 0, -1):
        key = key * vocabulary + history[:, -back]
    return key


def _windows(rows: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Each predicted token of rows [N, T] with its history [M, ORDER − 1], its row and its place in it.

    What lies before a document, or before a row, counts as `END`.
    """
    padded = np.pad(rows, ((0, 0), (ORDER - 2, 0)), constant_values=END)
    width = rows.shape[1]
    history = np.stack([padded[:, back : back + width - 1] for back in range(ORDER - 1)], 2)
    for back in range(ORDER - 3, -1, -1):  # what stands before an END belongs to another document
        history[:, :, back] = np.where(history[:, :, back + 1] == END, END, history[:, :, back])
    row, place = np.nonzero(rows[:, 1:] != NOTHING)
    return history[row, place], rows[row, place + 1], row, place + 1
