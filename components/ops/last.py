"""When the last backup was made, and where it went: left in the home for doctor."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from components import files
from components.settings import Settings


@dataclass(frozen=True)
class Last:
    """The last backup."""

    target: Path
    created: datetime

    @property
    def age(self) -> timedelta:
        """How long ago it was made."""
        return datetime.now(UTC) - self.created


def remember(settings: Settings, target: Path, name: str, created: str) -> None:
    """Leave word of a backup that was made."""
    content = {"target": str(target.resolve()), "name": name, "created": created}
    files.write(_file(settings), json.dumps(content))


def last_backup(settings: Settings) -> Last | None:
    """The last backup; None if none was made, or what was left of it cannot be read."""
    try:
        content = json.loads(_file(settings).read_text(encoding="utf-8"))
        return Last(Path(content["target"]), datetime.fromisoformat(content["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(settings: Settings) -> Path:
    return settings.home / "last-backup.json"
