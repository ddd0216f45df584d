"""How far a replica is with one product: what it saw of the ledger, and when it tries again what failed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

SLOWEST = 60.0
"""The most seconds between two tries; they begin with one and double."""


class NotNowError(Exception):
    """The version could not be tried, which is no fault of its own: storage, the registry, memory."""


@dataclass
class Course:
    """How far a replica is with one product: what it saw of the ledger, and what it tries again, and when.

    `given_up` are the lines that made versions champion which cannot be served, each with the reason until the
    ledger has it.
    """

    seen: tuple[int, int] | None = None
    failures: int = 0
    again: float = 0.0
    given_up: dict[str, str] = field(default_factory=dict)

    def later(self) -> None:
        """Look again, after twice the time of the last failure."""
        self.seen = None
        self.again = time.monotonic() + min(SLOWEST, 2.0**self.failures)
        self.failures += 1

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
