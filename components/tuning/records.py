"""A search on disk: what it is, and what each of its trials has come to, one JSON file for all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from components import files
from components.errors import UserError
from components.settings import Settings as Environment
from components.tuning.space import Settings

TrialState = Literal["running", "done", "stopped", "failed"]
"""`stopped` says that the others were better at the same step; what was interrupted is still `running`."""


@dataclass(frozen=True)
class Trial:
    """One trial: its settings, and the metric by the step at which it was measured."""

    number: int
    settings: Settings
    state: TrialState = "running"
    values: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    tracking_run: str = ""

    @property
    def step(self) -> int:
        """The last step at which it was measured; 0 before the first."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The metric at that step."""
        return self.values[self.step] if self.values else None

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state != "running"


@dataclass(frozen=True)
class Sweep:
    """`sweep.json`: what is searched, how trials are compared, and the trials so far.

    `metric` and `better` are empty until the first trial was measured, if the product names no metric.
    """

    name: str
    run: str
    product: str
    family: str
    dataset: str
    revision: str
    space: Mapping[str, str]
    overrides: tuple[str, ...]
    steps: int
    rungs: tuple[int, ...]
    searcher: str
    seed: int
    metric: str = ""
    better: Literal["lower", "higher", ""] = ""
    trials: tuple[Trial, ...] = ()
    tracking_run: str = ""

    @property
    def best(self) -> Trial | None:
        """The trial with the best metric among those that went all the way; None if none did."""
        whole = [trial for trial in self.trials if trial.state == "done" and trial.value is not None]
        return min(whole, key=lambda trial: self.sign * (trial.value or 0.0), default=None)

    @property
    def sign(self) -> float:
        """What the metric is multiplied by so that less is better."""
        return -1.0 if self.better == "higher" else 1.0

    @property
    def over(self) -> int:
        """How many trials have come to their end."""
        return sum(trial.over for trial in self.trials)

    def with_trial(self, trial: Trial) -> Sweep:
        """This search with `trial` in the place of the one with its number, or behind the others."""
        others = [one for one in self.trials if one.number != trial.number]
        ordered = sorted([*others, trial], key=lambda one: one.number)
        return dataclasses.replace(self, trials=tuple(ordered))


SWEEP = TypeAdapter(Sweep)
Told = Callable[[Sweep, Trial], None]
"""Hears of a search as it is now, and of the trial that has just changed."""


def sweep_folder(settings: Environment, name: str) -> Path:
    """Where the search `name` keeps all that it has; every node of a cluster sees it."""
    return settings.shared / "sweeps" / name


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write `sweep.json`, atomically."""
    content: dict[str, Any] = dataclasses.asdict(sweep)
    files.write(folder / "sweep.json", json.dumps(content, indent=2))


def read_sweep(folder: Path) -> Sweep | None:
    """The search in `folder`; None if there is none yet. Raises `UserError` for a damaged file."""
    path = folder / "sweep.json"
    if not path.is_file():
        return None
    try:
        return SWEEP.validate_json(path.read_bytes())
    except ValueError as error:  # pydantic's error is one
        raise UserError(
            f"The file {path} is damaged; delete the folder {folder} and search again."
        ) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the search's lock; raises `UserError` if another process does."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=1):
            yield
    except Timeout as error:
        raise UserError(f"The search {folder.name} is done by another process; wait for it.") from error
