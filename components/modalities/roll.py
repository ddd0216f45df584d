"""Piano rolls: scores as pictures, time to the right and tones above each other, each voice in its colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.modalities.drawing import png
from components.modalities.score import Score

COLOURS = ((214, 69, 65), (233, 160, 44), (46, 139, 87), (52, 101, 190), (142, 84, 173), (90, 90, 90))
"""Of the voices in turn, from the highest on; RGB."""
TONE = 5
"""Pixels of a tone in height."""
WIDE, NARROW = 10, 2
"""The most and the fewest pixels of a step in width."""
WIDEST = 1400
"""About the most pixels of a roll."""
MARGIN = 2
"""Empty tones above and below those that sound."""
PAPER, BLACK_KEY, BEAT, BAR, EDGE = 255, 244, 232, 190, 120
"""Levels of grey: the white keys' rows, the black keys', lines at quarters and bars, around each roll."""
BLACK = frozenset({1, 3, 6, 8, 10})
GAP = 8
Levels = np.ndarray[Any, np.dtype[np.uint8]]


def rolls(scores: Sequence[Score], marked: Sequence[tuple[int, int] | None] = ()) -> bytes:
    """A PNG of all scores below each other, of one scale; `marked` steps [first, last) of each stand on yellow."""
    longest = max((score.length for score in scores), default=1)
    step = max(NARROW, min(WIDE, WIDEST // max(1, longest)))
    marks = [*marked, *([None] * len(scores))]
    panels = [_roll(score, step, mark) for score, mark in zip(scores, marks, strict=False)]
    width = max([panel.shape[1] for panel in panels] or [GAP])
    sheet = [np.full((GAP, width + 2 * GAP, 3), PAPER, dtype=np.uint8)]
    for panel in panels:
        line = np.full((panel.shape[0] + GAP, width + 2 * GAP, 3), PAPER, dtype=np.uint8)
        line[: panel.shape[0], GAP : GAP + panel.shape[1]] = panel
        sheet.append(line)
    whole = np.concatenate(sheet)
    return png(whole, (whole.shape[1], whole.shape[0]))


def _roll(score: Score, step: int, mark: tuple[int, int] | None) -> Levels:
    """One roll [H, W, 3], the low tones below."""
    tones = [note.pitch for note in score.notes] or [60]
    lowest, highest = min(tones) - MARGIN, max(tones) + MARGIN
    height, width = (highest - lowest + 1) * TONE, max(1, score.length) * step
    panel = np.full((height, width, 3), PAPER, dtype=np.uint8)
    for pitch in range(lowest, highest + 1):
        if pitch % 12 in BLACK:
            panel[_rows(pitch, highest)] = BLACK_KEY
    if mark is not None:
        panel[:, mark[0] * step : mark[1] * step, 2] //= 2
    for at in range(0, score.length, score.steps):
        panel[:, at * step] = BAR if at % score.bar == 0 else BEAT
    for note in sorted(score.notes, key=lambda one: -one.voice):  # the upper voices lie above
        colour = np.array(COLOURS[note.voice % len(COLOURS)], dtype=np.uint8)
        rows = _rows(note.pitch, highest)
        first, last = note.start * step, min(note.end, score.length) * step
        panel[rows.start : rows.stop - 1, first : max(first + 1, last - 1)] = colour
        panel[rows.start : rows.stop - 1, first] = colour // 2  # where it is struck
    panel[[0, -1]], panel[:, [0, -1]] = EDGE, EDGE
    return panel


def _rows(pitch: int, highest: int) -> slice:
    top = (highest - pitch) * TONE
    return slice(top, top + TONE)
