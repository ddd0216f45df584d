"""How far a replica is with one product: what it saw of the ledger, and when it tries again what failed."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from components.serving.engine import Engine

LINGER = 60.0
"""Seconds without a row after which a version that gave way is taken out of memory."""
TRIES = 2
"""How often a version is loaded before it is given up."""
SLOWEST = 60.0
"""The most seconds between two tries; they begin with one and double."""


class NotNowError(Exception):
    """The version could not be tried, which is no fault of its own: storage, the registry, memory."""


@dataclass
class Rest:
    """Since when an engine computes nothing; a version that gave way is closed after `LINGER` seconds of it."""

    since: float | None = None

    def over(self, engine: Engine, linger: float) -> bool:
        """Look at the engine: whether it has computed nothing for `linger` seconds."""
        now = time.monotonic()
        if engine.busy:
            self.since = None
        elif self.since is None:
            self.since = now
        return self.since is not None and now - self.since >= linger


@dataclass
class Course:
    """How far a replica is with one product: what it saw of the ledger, and what it tries again, and when.

    `given_up` are the lines that made versions champion which cannot be served, each with the reason until the
    ledger has it; `faults` count how often the version of a line could not be loaded, which `failures`, of anything
    one after the other, do not tell.
    """

    seen: tuple[int, int] | None = None
    failures: int = 0
    again: float = 0.0
    given_up: dict[str, str] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)

    def later(self) -> None:
        """Look again, after twice the time of the last failure."""
        self.seen = None
        self.again = time.monotonic() + min(SLOWEST, 2.0**self.failures)
        self.failures += 1

    def last_try(self, turn: str) -> bool:
        """Count a failure that is the own one of the version which `turn` names; whether it is not tried again."""
        self.faults[turn] += 1
        return self.faults[turn] >= TRIES

    def moved(self, ledger: Path) -> bool:
        """Whether the ledger is another than at the last look; a look that failed counts as none."""
        if time.monotonic() < self.again:
            return False
        try:
            found = ledger.stat()
        except FileNotFoundError:
            return False
        before, self.seen = self.seen, (found.st_mtime_ns, found.st_size)
        return self.seen != before
