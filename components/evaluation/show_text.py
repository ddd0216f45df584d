"""Samples of text for a person to read: as they are, and beside what they repeat of the training text."""

from __future__ import annotations

from collections.abc import Sequence

from components.evaluation.overlap import Overlap
from components.evaluation.text import Sampled
from components.modalities.text import numbered

NEAREST = 8
AROUND = 60
"""Characters of the training text that are shown on each side of what a sample repeats."""


def shown(one: Sampled) -> str:
    """A sample as it is, with a mark where the limit of length ended it."""
    return f"{one.text} […]" if one.cut else one.text


def nearest_text(texts: Sequence[Sampled], overlaps: Sequence[Overlap], train: Sequence[str]) -> bytes:
    """The eight samples that repeat most of the training text, each with that piece and where it stands; UTF-8."""
    order = sorted(range(len(texts)), key=lambda place: -overlaps[place].length)[:NEAREST]
    return numbered([_beside(texts[place], place, overlaps[place], train) for place in order])


def _beside(one: Sampled, number: int, overlap: Overlap, train: Sequence[str]) -> str:
    source = train[overlap.piece] if overlap.length else ""
    last = overlap.place + overlap.length
    before, after = source[max(0, overlap.place - AROUND) : overlap.place], source[last : last + AROUND]
    return "\n".join(
        [
            f"sample {number}, {len(one.text)} characters:",
            shown(one),
            "",
            f"its longest verbatim overlap has {overlap.length} characters and stands in piece {overlap.piece} "
            f"of the training text, from character {overlap.place} on:",
            f"{before}⟦{source[overlap.place : last]}⟧{after}",
        ]
    )
