"""Plucked strings, synthesised, and scores played on them. Nothing is recorded.

The algorithm is that of Karplus & Strong 1983, "Digital Synthesis of Plucked-String and Drum Timbres", Computer Music
Journal 7(2): a burst of noise goes round a delay line and is averaged with its neighbour at each turn. An all-pass in
the loop tunes it between whole samples, as in Jaffe & Smith 1983 (in the same issue).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from components.modalities.score import DRUMS, Score
from components.modalities.speech import written
from components.modalities.waveform import FULL

Levels = np.ndarray[Any, np.dtype[np.floating[Any]]]
"""Amplitudes, [T]; 1 is full scale."""
RATE = 16_000
"""Samples a second of scores that are played."""
RING, FADE = 2.0, 0.08
"""Seconds until a string has lost 60 dB, and in which it is damped when its note ends."""
LONGEST_NOTE = 2.5
"""Seconds; a string that is held longer is silent by then."""
MOST_SECONDS = 600.0
"""What is longer is cut."""
A4, A4_PITCH = 440.0, 69
PEAK = 0.9
LOWEST_TONE, HIGHEST_TONE = 21, 108
"""The keys of a piano; tones beyond are played an octave nearer."""
SEED = 1983


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


def play(score: Score) -> bytes:
    """The score on plucked strings as a WAV file, one channel of 16 bits; drums are a knock."""
    seconds = 60 / score.tempo / score.steps  # of a step
    total = min(MOST_SECONDS, score.length * seconds + RING / 2)
    levels = np.zeros(max(1, round(total * RATE)))
    for note in score.notes:
        first = round(note.start * seconds * RATE)
        drum = score.voices[note.voice].program == DRUMS
        sound = _knock() if drum else _damped(_string(_tone(note.pitch)), note.length * seconds)
        part = levels[first : first + len(sound)]
        part += sound[: len(part)]
    peak = float(np.abs(levels).max())
    levels *= PEAK / peak if peak > 0 else 0.0
    return written((levels * FULL).round().astype(np.int16), RATE, "wav")


def _tone(pitch: int) -> int:
    while pitch < LOWEST_TONE:
        pitch += 12
    while pitch > HIGHEST_TONE:
        pitch -= 12
    return pitch


@cache
def _string(pitch: int) -> Levels:
    """A string of this MIDI pitch, as long as a note may be; the same each time."""
    sound = pluck(
        A4 * 2 ** ((pitch - A4_PITCH) / 12),
        RING,
        RATE,
        round(LONGEST_NOTE * RATE),
        np.random.default_rng([SEED, pitch]),
    )
    found: Levels = (sound / np.sqrt(np.mean(sound[: RATE // 4] ** 2))).astype(np.float32)
    return found


@cache
def _knock() -> Levels:
    """Noise that is gone after a tenth of a second."""
    time = np.arange(RATE // 8) / RATE
    noise = np.random.default_rng(SEED).normal(size=len(time))
    return (noise * np.exp(-60 * time)).astype(np.float32)


def _damped(sound: Levels, seconds: float) -> Levels:
    """The first `seconds` of a sound, and its fading behind them."""
    held, fade = round(seconds * RATE), round(FADE * RATE)
    kept = np.array(sound[: held + fade])
    behind = kept[held:]
    behind *= np.linspace(1, 0, fade)[: len(behind)]
    return kept
