"""The folder of a training run: what is written there, and reading it back."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from components import files
from components.errors import UserError, unknown
from components.settings import Settings

RunState = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class RunRecord:
    """`run.json`: which training this is, where it stands, who works on it. `folder` is not in the file."""

    id: str
    run: str
    product: str
    family: str
    key: str
    parameters: Mapping[str, Any]
    dataset: str
    revision: str
    created: str
    workers: int
    steps: int
    pid: int
    state: RunState = "running"
    reason: str = ""
    tracking_run: str = ""
    folder: Path = Path()

    @property
    def artifact(self) -> Path:
        """The folder of the trained model, there once `state` is "done"."""
        return self.folder / "artifact"

    @property
    def progress(self) -> Path:
        """One JSON line each time the loop reports."""
        return self.folder / "progress.jsonl"

    @property
    def evaluation(self) -> Path:
        """The folder of the report and its pictures."""
        return self.folder / "evaluation"

    @property
    def stop_file(self) -> Path:
        """If it exists, the loop writes a checkpoint and ends."""
        return self.folder / "stop"

    @property
    def interrupted(self) -> bool:
        """Whether it says that it runs while no process holds its lock."""
        if self.state != "running":
            return False
        lock = FileLock(self.folder / "lock", blocking=False)
        try:
            with lock:
                return True
        except Timeout:
            return False


RECORD = TypeAdapter(RunRecord)


def write_run(record: RunRecord) -> RunRecord:
    """Write `run.json`, atomically, and return the record."""
    content = {name: value for name, value in dataclasses.asdict(record).items() if name != "folder"}
    record.folder.mkdir(parents=True, exist_ok=True)
    files.write(record.folder / "run.json", json.dumps(content, indent=2, sort_keys=True))
    return record


def load_run(folder: Path) -> RunRecord:
    """The record in `folder`; FileNotFoundError if there is none."""
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return RECORD.validate_python({**content, "folder": folder})
    except (ValueError, TypeError) as error:  # pydantic's error is a ValueError
        raise UserError(f"The file {path} is damaged; delete the folder {folder} and train again.") from error


def read_runs(settings: Settings) -> list[RunRecord]:
    """All runs, the newest first."""
    found = []
    for path in settings.runs.glob("*/run.json"):
        try:
            found.append(load_run(path.parent))
        except UserError as error:
            logging.getLogger(__name__).warning("%s", error)
    return sorted(found, key=lambda run: run.created, reverse=True)


def read_run(settings: Settings, name: str) -> RunRecord:
    """The run called `name`: an id, the beginning of just one id, or a run's name for the training of it
    that runs, else its latest.

    Raises `UserError` with the nearest names if there is none.
    """
    runs = read_runs(settings)
    exact = [run for run in runs if run.id == name or run.run == name]
    if exact:
        running = [run for run in exact if run.state == "running" and not run.interrupted]
        return (running or exact)[0]
    begun = [run for run in runs if run.id.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    raise unknown("training run", name, [run.id for run in runs])


def read_outcome(record: RunRecord) -> tuple[RunState, str]:
    """How the workers ended, and why if they failed."""
    path = record.folder / "outcome.json"
    if not path.is_file():
        return "failed", "the workers left no outcome"
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["state"], content["reason"]


def read_progress(record: RunRecord) -> list[dict[str, Any]]:
    """The lines of `progress.jsonl`, the oldest first; a line that a crash cut off is left out."""
    if not record.progress.is_file():
        return []
    return [
        line for text in record.progress.read_bytes().splitlines() if (line := report_of(text)) is not None
    ]


def report_of(text: bytes) -> dict[str, Any] | None:
    """A line of `progress.jsonl`; None for one that a crash cut off, or that is damaged."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None
