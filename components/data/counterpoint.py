"""Music that is always there, for trying out and for tests: four voices by the rules of a harmony class.

Nobody composed it. A bass line of functions goes from tonic to cadence; above it each chord is set for soprano, alto,
tenor and bass by chance, among the settings that the rules allow behind the chord before: voices keep their ranges and
their order, neighbours of the upper three are an octave apart at most, the leading tone rises to the tonic at the end,
and no two voices move in parallel unisons, fifths or octaves (Aldwell & Schachter, Harmony and Voice Leading, chapters
5 and 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import combinations, product

import numpy as np

from components.modalities.score import Score, Voice, of_frames

VOICES = (Voice("soprano"), Voice("alto"), Voice("tenor"), Voice("bass"))
RANGES = ((60, 79), (55, 74), (48, 67), (41, 60))
"""The lowest and the highest pitch of each voice (C4 is 60)."""
BARS, BAR = 8, 4
SEED = 1725
"""The year of Fux's Gradus ad Parnassum."""
MAJOR = (0, 2, 4, 5, 7, 9, 11)
FOLLOWS: dict[int, tuple[tuple[int, float], ...]] = {
    1: ((4, 3), (5, 3), (6, 2), (2, 1), (3, 1)),
    2: ((5, 5), (7, 1)),
    3: ((6, 3), (4, 2)),
    4: ((5, 4), (2, 2), (1, 2)),
    5: ((1, 5), (6, 2)),
    6: ((2, 3), (4, 3), (5, 1)),
    7: ((1, 1),),
}
"""The degrees that follow each degree of a major key, and how often."""
LEAP = 7
"""Semitones; further an upper voice does not go at once."""
TRIES = 50
Setting = tuple[int, int, int, int]
"""The pitches of soprano, alto, tenor and bass."""


def piece(number: int) -> Score:
    """The piece of this number, which decides all of it."""
    random = np.random.default_rng([SEED, number])
    for _ in range(TRIES):
        key = int(random.integers(-4, 5))
        found = _set(_degrees(random), random)
        if found is not None:
            frames = [[pitch + key for pitch in setting] for setting in found]
            return of_frames(frames, VOICES, 1, BAR, 80.0)
    raise AssertionError(f"no setting of piece {number} was found")


def _degrees(random: np.random.Generator) -> list[int]:
    """The degree of each quarter: two quarters a chord or one, cadences at the middle and the end."""
    found = [1, 1]
    while len(found) < BARS * BAR - 4:
        degree = _next(found[-1], random)
        found += [degree] * (1 + int(random.random() < 0.35))
        if BARS * BAR // 2 - 3 <= len(found) <= BARS * BAR // 2 - 2:
            found += [5, 1]
    return [*found[: BARS * BAR - 4], 4, 5, 1, 1]


def _next(degree: int, random: np.random.Generator) -> int:
    degrees, weights = zip(*FOLLOWS[degree], strict=True)
    shares = np.array(weights) / sum(weights)
    return int(random.choice(degrees, p=shares))


def _set(degrees: list[int], random: np.random.Generator) -> list[Setting] | None:
    """A setting of each degree, or None where the rules leave no way on."""
    found: list[Setting] = []
    for place, degree in enumerate(degrees):
        last = place >= len(degrees) - 2
        if found and degrees[place - 1] == degree and (last or random.random() < 0.4):
            found.append(found[-1])
            continue
        firm = last or place == 0  # a piece begins and ends with the tonic in the bass
        allowed = [
            one
            for one in _settings(degree)
            if not (firm and one[3] % 12) and (not found or _follows(found[-1], one, degrees[place - 1]))
        ]
        if not allowed:
            return None
        costs = np.array([_cost(found[-1], one) if found else 0.0 for one in allowed])
        shares = np.exp(costs.min() - costs)
        found.append(allowed[int(random.choice(len(allowed), p=shares / shares.sum()))])
    return found


@cache
def _settings(degree: int) -> tuple[Setting, ...]:
    """All settings of a triad of C major whose root is in the bass (of 7, and at times of 1, 2 and 4, the third)."""
    tones = [MAJOR[(degree - 1 + step) % 7] for step in (0, 2, 4)]
    basses = {1: (0, 1), 2: (0, 1), 4: (0, 1), 7: (1,)}.get(degree, (0,))
    ranges = [range(lowest, highest + 1) for lowest, highest in RANGES]
    voices = [[pitch for pitch in one if pitch % 12 in tones] for one in ranges]
    low = [pitch for pitch in ranges[3] if pitch % 12 in [tones[place] for place in basses]]
    found = product(voices[0], voices[1], voices[2], low)
    return tuple(one for one in found if _sounds(one, tones))


def _sounds(one: Setting, tones: list[int]) -> bool:
    """Whether a setting keeps the order and the distances of voices, has every tone, and one leading tone at most."""
    soprano, alto, tenor, bass = one
    ordered = soprano > alto > tenor > bass and soprano - alto <= 12 and alto - tenor <= 12
    classes = [pitch % 12 for pitch in one]
    return ordered and set(classes) == set(tones) and classes.count(MAJOR[6]) <= 1


def _follows(before: Setting, after: Setting, degree: int) -> bool:
    """Whether the rules allow `after` behind `before`, a setting of `degree`."""
    if any(abs(new - old) > LEAP for old, new in zip(before[:3], after[:3], strict=True)):
        return False
    if degree in (5, 7) and before[0] % 12 == MAJOR[6] and after[0] % 12 == 0 and after[0] != before[0] + 1:
        return False
    return not any(_parallel(before, after, *pair) for pair in combinations(range(4), 2))


def _parallel(before: Setting, after: Setting, upper: int, lower: int) -> bool:
    """Whether two voices move from a fifth to a fifth, or from an octave or unison to one."""
    first, second = before[upper] - before[lower], after[upper] - after[lower]
    return before[upper] != after[upper] and first % 12 == second % 12 and first % 12 in (0, 7)


def _cost(before: Setting, after: Setting) -> float:
    """How far the voices go; that the bass leaps costs little."""
    steps = [abs(new - old) for old, new in zip(before, after, strict=True)]
    return sum(steps[:3]) / 2 + steps[3] / 6 + (before == after) * 3


def pieces(count: int) -> Iterator[Score]:
    """The first `count` pieces."""
    return (piece(number) for number in range(count))
