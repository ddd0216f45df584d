"""How fast an engine is, by what it has just done, so that nobody is taken who would wait too long."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

KNOWN, FORGET = 8, 256
"""Rows after which an engine's pace is known, and after which what was before counts half."""
QUICK = 0.0005
"""The most seconds of a quick step. A loop that computes it is busy for so long, and spares two changes of threads."""
SHORT = 0.004
"""The same while no other engine of a replica is at work, whose streams would wait.

The loop has then taken in all that came, so that the step's rows are many, and nobody fights for Python's lock.
"""
RECENT = 8
"""Steps of which the fastest says what one costs: the others may have waited for Python's lock or for a core."""


@dataclass
class Pace:
    """How fast rows are computed, by the last few hundred of them: `taken` are places in use, summed over steps.

    `recent` are the seconds of the last steps.
    """

    seconds: float = 0.0
    steps: float = 0.0
    taken: float = 0.0
    finished: float = 0.0
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def quick(self) -> bool:
        """Whether every row takes one step, and that a short one."""
        return self._single and min(self.recent) <= QUICK

    @property
    def short(self) -> bool:
        """Whether every row takes one step, and that usually one which an idle loop can spare."""
        return self._single and median(self.recent) <= SHORT

    @property
    def _single(self) -> bool:
        return self.finished >= KNOWN and self.finished == self.taken

    def wait(self, rows: int, width: int) -> float:
        """Seconds that `rows` take where all of `width` places are in use; 0 until some are known."""
        if self.finished < KNOWN:
            return 0.0
        return rows * (self.seconds / self.steps) * (self.taken / self.finished) / width

    def add(self, seconds: float, taken: int, finished: int) -> None:
        """Take a step in."""
        self.recent.append(seconds)
        self.seconds, self.steps = self.seconds + seconds, self.steps + 1
        self.taken, self.finished = self.taken + taken, self.finished + finished
        if self.finished > FORGET:
            self.seconds, self.steps = self.seconds / 2, self.steps / 2
            self.taken, self.finished = self.taken / 2, self.finished / 2
