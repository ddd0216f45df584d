"""How documents become rows of tokens: short ones packed together, long ones cut in overlapping windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Window:
    """A row out of one sequence: its tokens [first, last), of which the last `fresh` are new."""

    first: int
    last: int
    fresh: int


def pack(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Put documents of `lengths` tokens into rows `END d1 END d2 END` of at most `width`; places of each row.

    Best fit, the longest first: each goes into the row with the least room that holds it (Johnson 1973), which
    leaves hardly any padding. No length may exceed `width` − 2.
    """
    rows: list[list[int]] = []
    open_rows: list[list[int]] = [[] for _ in range(width)]  # by the room that is left
    counts = np.zeros(width, np.int64)
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        need = lengths[place] + 1  # the document and the END behind it
        ahead = counts[need:] > 0
        offset = int(ahead.argmax()) if len(ahead) else 0
        if len(ahead) and ahead[offset]:
            room = need + offset
            row = open_rows[room].pop()
            counts[room] -= 1
        else:
            room, row = width - 1, len(rows)
            rows.append([])
        rows[row].append(place)
        open_rows[room - need].append(row)
        counts[room - need] += 1
    return rows


def training_windows(length: int, width: int) -> Iterator[Window]:
    """Windows of up to 2·`width` − 1 tokens, one every `width`: each start of a crop of `width` lies in just one."""
    for first in range(0, max(1, length - width + 1), width):
        last = min(length, first + 2 * width - 1)
        yield Window(first, last, last - first - 1)


def held_out_windows(length: int, width: int) -> Iterator[Window]:
    """Windows of up to `width` tokens, moved by a quarter of it: each token after the first is fresh just once."""
    step = max(1, width // 4)
    last = min(length, width)
    yield Window(0, last, last - 1)
    while last < length:
        fresh = min(step, length - last)
        last += fresh
        yield Window(last - width, last, fresh)
