"""What came of each schedule the last time: as Prefect tells it, and kept in a file for when nothing runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import files

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

FILE = "last.json"


def told(flow_run: FlowRun | None) -> dict[str, Any] | None:
    """How a flow run ended, or that it runs, and when; None of one that has not begun."""
    from flows.scheduled import result_of

    if flow_run is None or flow_run.state is None:
        return None
    result = result_of(flow_run.state)
    return {
        "outcome": result.outcome.lower(),
        "version": result.version,
        "reason": result.reason or None,
        "began": _moment(flow_run.start_time or flow_run.expected_start_time),
        "ended": _moment(flow_run.end_time),
        "flow_run": str(flow_run.id),
    }


def keep(folder: Path, last: Mapping[str, Any]) -> None:
    """Write down what came of each schedule."""
    files.write(folder / FILE, json.dumps(dict(last), ensure_ascii=False, indent=2))


def kept(folder: Path) -> dict[str, Any]:
    """What was written down, by the schedules' names; nothing of a file that is damaged."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _moment(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone().isoformat(timespec="seconds")
