"""What a search has found, for people and programs: a table, report.json, a picture, the command that uses it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from components import files
from components.tuning.picture import draw
from components.tuning.records import Sweep, Trial
from components.tuning.space import assignments


def write_report(folder: Path, sweep: Sweep) -> None:
    """Write `report.json` and, once a trial was measured, `trials.png` into the folder of a search."""
    files.write(folder / "report.json", json.dumps(report(sweep), indent=2))
    if any(trial.values for trial in sweep.trials):
        with files.draft(folder / "trials.png") as draft:
            draw(sweep).save(draft, format="PNG")


def report(sweep: Sweep) -> dict[str, Any]:
    """All of a search as JSON takes it, with its best trial and the command that trains with its settings."""
    content: dict[str, Any] = dataclasses.asdict(sweep)
    best = sweep.best
    return {
        **content,
        "split": "val",
        "best": None if best is None else dataclasses.asdict(best),
        "command": None if best is None else command(sweep, best),
    }


def command(sweep: Sweep, trial: Trial) -> str:
    """The command that retrains the run with the settings of `trial`, for as many steps as the run's row says."""
    chosen = [*(text for text in sweep.overrides), *assignments(trial.settings)]
    return shlex.join(
        ["genloom", "retrain", sweep.run, *(part for text in chosen for part in ("--set", text))]
    )


def table(sweep: Sweep) -> list[dict[str, Any]]:
    """A row for each trial: the best one first, then as far as they came."""

    def order(trial: Trial) -> tuple[bool, int, float]:
        return (trial.state == "failed", -trial.step, sweep.sign * (trial.value or 0.0))

    return [
        {
            "trial": trial.number,
            "state": trial.state if trial.over else "interrupted",
            "step": trial.step,
            sweep.metric or "metric": trial.value,
            **trial.settings,
        }
        for trial in sorted(sweep.trials, key=order)
    ]


def sentence(sweep: Sweep) -> str:
    """How it stands, in one sentence: how many trials, and what the best is."""
    states = [trial.state for trial in sweep.trials]
    counts = ", ".join(f"{states.count(state)} {name}" for state, name in NAMES.items() if state in states)
    best = sweep.best
    if best is None:
        return f"{sweep.name}: {counts or 'no trial yet'}; none has gone all the way."
    return (
        f"{sweep.name}: {counts}; the best is trial {best.number} with {sweep.metric} {best.value:.4g} on the val "
        f"split of {sweep.dataset}."
    )


NAMES = {"done": "done", "stopped": "stopped early", "failed": "failed", "running": "interrupted"}
"""The states of trials as a sentence names them."""
