"""What a benchmark gives back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One line of the table; `figures` are the raw numbers behind it."""

    what: str
    measured: str
    wanted: str
    figures: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """The row for a terminal."""
        return f"{self.what}: {self.measured} (wanted: {self.wanted})"
