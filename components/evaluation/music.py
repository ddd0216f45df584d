"""Metrics of pieces of music: how their histograms differ from real ones, keys, empty and repeated bars, copies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from components.evaluation.intervals import Interval, average, resampled, share
from components.evaluation.overlap import Overlap
from components.evaluation.text import median
from components.modalities.music import FEATURES
from components.modalities.score import Note, Score

Floats = NDArray[np.float64]
POINTS = 200
"""Places at which densities of distances are compared."""
RESAMPLES = 100
LEAST_SHARE = 1e-4
"""The least that a density counts for in a divergence, of an even one: a divergence stays finite."""
LEAP = 12
"""Semitones; melodic intervals beyond count as so many."""
SCALE = (0, 2, 4, 5, 7, 9, 11)
"""The major scale, which has the tones of the natural minor one."""
DENSITY = 1e-9


@dataclass(frozen=True)
class Compared:
    """Real pieces as the distances of each feature among themselves, and what other pieces are compared with."""

    features: Mapping[str, Floats]
    within: Mapping[str, Floats]


def features(scores: Sequence[Score]) -> dict[str, Floats]:
    """Each feature of each piece, [N, bins]; shares, but for the density, which is in notes a quarter."""
    makers: Mapping[str, Callable[[Score], Floats]] = {
        "pitch_class": _pitch_classes,
        "interval": _intervals,
        "duration": _durations,
        "density": _density,
    }
    return {name: np.stack([makers[name](score) for score in scores]) for name in FEATURES}


def compared(scores: Sequence[Score]) -> Compared:
    """What real pieces are by themselves."""
    found = features(scores)
    upper = np.triu_indices(len(scores), 1)
    return Compared(found, {name: distances(rows, rows)[upper] for name, rows in found.items()})


def distances(one: Floats, other: Floats) -> Floats:
    """Euclidean distances [N, M] of rows."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    found: Floats = np.sqrt(np.maximum(squares, 0.0))
    return found


def likeness(real: Compared, scores: Sequence[Score], seed: int) -> dict[str, Interval]:
    """How far pieces are from real ones as real ones are from each other (Yang & Lerch 2018).

    Of each feature the densities of two sets of distances are compared: of real pieces among themselves, and of real
    ones from these. Their overlapping area is 1 where they are the same, their Kullback–Leibler divergence 0 (in
    nats). The interval is of resampled pieces.
    """
    found: dict[str, Interval] = {}
    generator = np.random.default_rng(seed)
    draws = [generator.integers(len(scores), size=len(scores)) for _ in range(RESAMPLES)]
    for name, rows in features(scores).items():
        between = distances(rows, real.features[name])
        grid = _grid(real.within[name], between)
        wanted = density(real.within[name], grid)
        value = _alike(wanted, density(between.flatten(), grid))
        table = np.array([_alike(wanted, density(between[draw].flatten(), grid)) for draw in draws])
        area, divergence = (resampled(value[k], torch.from_numpy(table[:, k].copy())) for k in range(2))
        found[f"{name}_overlap"] = (area[0], max(0.0, area[1]), min(1.0, area[2]))
        found[f"{name}_divergence"] = (divergence[0], max(0.0, divergence[1]), divergence[2])
    return found


def _grid(one: Floats, other: Floats) -> Floats:
    """The edges of `POINTS` places that all distances lie between, with room for what is smoothed."""
    most = max(float(one.max(initial=0.0)), float(other.max(initial=0.0)), DENSITY)
    return np.linspace(-0.25 * most, 1.25 * most, POINTS + 1)


def density(values: Floats, edges: Floats) -> Floats:
    """The share of `values` at each place, smoothed by a normal kernel of Scott's width (a binned estimate)."""
    counts = np.histogram(values, edges)[0] / max(1, len(values))
    step = float(edges[1] - edges[0])
    width = max(step, float(values.std()) * max(1, len(values)) ** -0.2)
    reach = np.arange(-POINTS, POINTS + 1) * step
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), "same")[POINTS // 2 : POINTS // 2 + POINTS]
    found: Floats = smooth / smooth.sum()
    return found


def _alike(wanted: Floats, found: Floats) -> tuple[float, float]:
    """The overlapping area and the divergence of two densities."""
    floor = LEAST_SHARE / POINTS
    p, q = ((one + floor) / (1 + floor * POINTS) for one in (wanted, found))
    return float(np.minimum(wanted, found).sum()), float((p * np.log(p / q)).sum())


def _shares(counts: Floats) -> Floats:
    total = counts.sum()
    return counts / total if total else counts


def _pitch_classes(score: Score) -> Floats:
    return _shares(np.bincount([note.pitch % 12 for note in score.pitched], minlength=12).astype(float))


def _intervals(score: Score) -> Floats:
    """Of each voice, from the highest note of a place to that of the next, −12 … 12 semitones."""
    counts = np.zeros(2 * LEAP + 1)
    for line in lines(score):
        for before, after in pairwise(line):
            counts[LEAP + max(-LEAP, min(LEAP, after.pitch - before.pitch))] += 1
    return _shares(counts)


def lines(score: Score) -> list[list[Note]]:
    """The highest notes of each voice of tones, one a place, in order."""
    tops: dict[int, dict[int, Note]] = defaultdict(dict)
    for note in score.pitched:
        own = tops[note.voice]
        if note.start not in own or own[note.start].pitch < note.pitch:
            own[note.start] = note
    return [[own[start] for start in sorted(own)] for own in tops.values()]


def _durations(score: Score) -> Floats:
    """By half octaves, from a sixteenth of a quarter to sixteen of them."""
    lengths = np.array([note.length for note in score.notes] or [score.steps]) / score.steps
    places = np.clip(np.round(2 * np.log2(lengths)) + 8, 0, 16).astype(int)
    return _shares(np.bincount(places, minlength=17).astype(float))


def _density(score: Score) -> Floats:
    return np.array([len(score.notes) * score.steps / max(1, score.length)])


def scale_consistency(score: Score) -> float:
    """The largest share of its tones that lie in one major (or natural minor) scale."""
    classes = _pitch_classes(score)
    return max(float(classes[[(tone + key) % 12 for tone in SCALE]].sum()) for key in range(12))


def _bars(score: Score) -> list[tuple[Note, ...]]:
    return [score.cut(bar * score.bar, (bar + 1) * score.bar).notes for bar in range(score.bars)]


def empty_bars(score: Score) -> float:
    """The share of bars in which nothing sounds; 1 of a piece without bars."""
    found = [not notes for notes in _bars(score)]
    return sum(found) / len(found) if found else 1.0


def repeated_bars(score: Score) -> float:
    """The share of bars behind the first that are the same as one before, empty ones left out."""
    found = [notes for notes in _bars(score) if notes]
    return 1 - (len(set(found)) - 1) / (len(found) - 1) if len(found) > 1 else 0.0


def form(scores: Sequence[Score]) -> dict[str, Interval]:
    """The means over pieces of what a piece is by itself."""
    found = {
        "scale_consistency": [scale_consistency(score) for score in scores],
        "empty_bars": [empty_bars(score) for score in scores],
        "repeated_bars": [repeated_bars(score) for score in scores],
    }
    return {name: _bounded(average(torch.tensor(values))) for name, values in found.items()}


def _bounded(found: Interval) -> Interval:
    value, low, high = found
    return value, max(0.0, low), min(1.0, high)


@dataclass(frozen=True)
class Line:
    """A piece as a text in which runs are looked for: `text` has a character for each change of chord.

    `starts` are the steps of the chords, one more than characters.
    """

    text: str
    starts: tuple[int, ...]


class Alphabet:
    """Gives each change from what begins at one place to what begins at the next a character, in every key the same."""

    def __init__(self) -> None:
        self._known: dict[object, str] = {}

    def line(self, score: Score) -> Line:
        """The piece as a line: a change is the time between two chords, and the tones of the second above the first."""
        chords: dict[int, list[Note]] = defaultdict(list)
        for note in score.notes:
            chords[note.start].append(note)
        starts = sorted(chords)
        parts = []
        for before, after in pairwise(starts):
            bass = min(note.pitch for note in chords[before])
            tones = tuple(sorted((note.voice, note.pitch - bass) for note in chords[after]))
            parts.append(self._character((after - before, tones)))
        return Line("".join(parts), tuple(starts))

    def _character(self, change: object) -> str:
        if change not in self._known:
            number = len(self._known) + 1
            self._known[change] = chr(number if number < 0xD800 else number + 0x800)  # no half characters
        return self._known[change]


def copies(texts: Sequence[Line], overlaps: Sequence[Overlap], seed: int) -> dict[str, Interval]:
    """The median of the longest runs of chords that stand in a training piece; the share of pieces that do whole."""
    whole = [
        float(bool(line.text) and overlap.length == len(line.text))
        for line, overlap in zip(texts, overlaps, strict=True)
    ]
    runs = [float(overlap.length + 1 if overlap.length else 0) for overlap in overlaps]
    return {"longest_overlap": median(runs, seed), "copied": share(torch.tensor(whole))}
