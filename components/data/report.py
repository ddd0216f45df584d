"""What preparing hands on for every modality: what was left out, the manifest and the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMED = 20
"""How many of the files with the same fault the report names."""


@dataclass(frozen=True)
class Written:
    """What the writer of a modality made: the content of `dataset.json` and of `report.json`."""

    manifest: Mapping[str, Any]
    report: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write both files into `folder`."""
        _write_json(folder / "dataset.json", self.manifest)
        _write_json(folder / "report.json", self.report)


@dataclass
class Tally:
    """What was read and what was left out, with the names of the first few files of each reason."""

    read: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, name: str, reason: str) -> None:
        """Count that `name` was left out because of `reason`."""
        self.counts[reason] += 1
        named = self.names.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(name)

    def dropped(self) -> dict[str, Any]:
        """The reasons with how often each was the case, and the first names."""
        return {
            reason: {"count": self.counts[reason], "files": self.names[reason]}
            for reason in sorted(self.names)
        }

    def reasons(self) -> str:
        """The most frequent reasons as a part of a sentence, empty if there are none."""
        listed = ", ".join(f"{count} {reason}" for reason, count in self.counts.most_common(3))
        return f" ({listed})" if listed else ""


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
