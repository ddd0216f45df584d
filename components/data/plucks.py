"""Plucked strings, synthesised: sound that is always there, for trying out and for tests. Nothing is recorded."""

from __future__ import annotations

from functools import partial

import numpy as np

from components.audio_rows import PlucksRow
from components.data.example import Entry, Pixels, Source
from components.data.sound import clip
from components.modalities.strings import pluck

NOTES = ("c", "d", "e", "f", "g", "a", "b", "c2")
STEPS = (0, 2, 4, 5, 7, 9, 11, 12)
LOWEST = 261.626
"""Hz of the note c (C4); the others are the major scale above it, in equal temperament."""
CENTS = 20
"""The most by which a string is out of tune, of 1200 to an octave."""
RINGS = (0.2, 1.0)
"""Seconds until a string has lost 60 dB by the loop's gain alone."""
LOUDNESS = (0.3, 0.9)
SEED = 1983


def open_plucks(row: PlucksRow) -> Source:
    """The strings of `row`, the notes in turn; each is decided by its number, so more may be added."""
    entries = [
        Entry(f"pluck#{number}", partial(_clip, number, row), NOTES[number % len(NOTES)])
        for number in range(row.count)
    ]
    return Source((1, 1, 2 * row.samples), len(entries), entries, classes=NOTES)


def _clip(number: int, row: PlucksRow) -> Pixels:
    random = np.random.default_rng([SEED, number])
    cents = 100 * STEPS[number % len(NOTES)] + random.uniform(-CENTS, CENTS)
    ring, loudness = random.uniform(*RINGS), random.uniform(*LOUDNESS)
    sound = pluck(LOWEST * 2 ** (cents / 1200), ring, row.rate, row.samples, random)
    return clip(loudness * sound / np.abs(sound).max(), row)
