"""Plucked strings, synthesised: sound that is always there, for trying out and for tests. Nothing is recorded.

The algorithm is that of Karplus & Strong 1983, "Digital Synthesis of Plucked-String and Drum Timbres", Computer Music
Journal 7(2): a burst of noise goes round a delay line and is averaged with its neighbour at each turn. An all-pass in
the loop tunes it between whole samples, as in Jaffe & Smith 1983 (in the same issue).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from components.audio_rows import PlucksRow
from components.data.example import Entry, Pixels, Source
from components.data.sound import Levels, clip

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


def pluck(pitch: float, ring: float, rate: int, samples: int, random: np.random.Generator) -> Levels:
    """A string of `pitch` Hz that rings for `ring` seconds: amplitudes [samples], of any peak."""
    from scipy.signal import lfilter

    period = rate / pitch
    line = math.floor(period - 0.6)  # the average delays by half a sample, the all-pass by what is left
    rest = period - 0.5 - line
    pole = (1 - rest) / (1 + rest)
    gain = 10 ** (-3 * period / (ring * rate))
    burst = np.zeros(samples)
    noise = random.uniform(-1, 1, line)
    burst[:line] = (noise - noise.mean())[:samples]
    numerator = np.array([1.0, pole])
    turn = np.convolve([0.5, 0.5], [pole, 1.0]) * gain
    denominator = np.zeros(line + 3)
    denominator[:2] = numerator
    denominator[line:] -= turn
    found: Levels = lfilter(numerator, denominator, burst)
    return found
