"""What one side of a trial did, counted so that replicas add up: requests, latencies by buckets, variety. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from components.evaluation.intervals import Z

FASTEST = 1e-4
"""Seconds of the first bucket."""
STEPS = 8
"""Buckets in which a latency doubles: each is 9% above the one before it."""


@dataclass
class Sample:
    """The sums of a sample, of which mean and interval can be had and which add up over replicas."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Take `values` in."""
        for value in values:
            self.count, self.total, self.squares = self.count + 1, self.total + value, self.squares + value**2

    @property
    def mean(self) -> float:
        """The mean; 0 of nothing."""
        return self.total / self.count if self.count else 0.0

    @property
    def half(self) -> float:
        """Half of the 95% interval of the mean, by the normal distribution."""
        if self.count < 2:
            return math.inf
        variance = max(0.0, self.squares - self.count * self.mean**2) / (self.count - 1)
        return Z * math.sqrt(variance / self.count)


@dataclass
class Tally:
    """What one side did: requests `answered` and `failed`, those of a shadow that were `dropped`.

    `seconds` are latencies of answers: of each kind of request (only those of a kind are compared) the number in
    each bucket. Of `probes`, `broken` gave numbers that are not finite; `variety` is of the others' rows.
    """

    answered: int = 0
    failed: int = 0
    dropped: int = 0
    seconds: dict[str, dict[int, int]] = field(default_factory=dict)
    probes: int = 0
    broken: int = 0
    variety: Sample = field(default_factory=Sample)

    @property
    def requests(self) -> int:
        """All that were asked of it."""
        return self.answered + self.failed

    def answer(self, kind: str, seconds: float) -> None:
        """Count an answer to a request of `kind`."""
        place, counts = bucket(seconds), self.seconds.setdefault(kind, {})
        counts[place] = counts.get(place, 0) + 1
        self.answered += 1

    def probe(self, values: Iterable[float] | None) -> None:
        """Count a probe with the variety of each of its rows; None where they are not finite."""
        self.probes += 1
        if values is None:
            self.broken += 1
        else:
            self.variety.add(values)

    def quantile(self, share: float) -> float | None:
        """Seconds within which `share` of all answers came; None without answers."""
        counts: Counter[int] = Counter()
        for one in self.seconds.values():
            counts.update(one)
        return ranked(counts, math.ceil(share * counts.total()))


def together(tallies: Iterable[Tally]) -> Tally:
    """The sum of what several replicas saw."""
    whole = Tally()
    for one in tallies:
        for name in ("answered", "failed", "dropped", "probes", "broken"):
            setattr(whole, name, getattr(whole, name) + getattr(one, name))
        for kind, counts in one.seconds.items():
            mine = whole.seconds.setdefault(kind, {})
            for place, count in counts.items():
                mine[place] = mine.get(place, 0) + count
        added = one.variety
        whole.variety.count += added.count
        whole.variety.total += added.total
        whole.variety.squares += added.squares
    return whole


def bucket(seconds: float) -> int:
    """The bucket of a latency."""
    return round(STEPS * math.log2(max(seconds, FASTEST) / FASTEST))


def ranked(counts: Mapping[int, int], rank: int) -> float | None:
    """The `rank`-th fastest answer in seconds."""
    for place in sorted(counts):
        rank -= counts[place]
        if rank <= 0:
            return middle(place)
    return None


def middle(place: int) -> float:
    """Seconds in the middle of a bucket."""
    return FASTEST * 2 ** (place / STEPS)
