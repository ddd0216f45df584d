"""What becomes of trials: on disk after each event, and in the run log, which may be silent without harm."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from components.errors import UserError
from components.project import RunRow
from components.tracking import Status, Tracker
from components.tuning.records import Sweep, Trial, TrialState, write_sweep
from components.tuning.space import Settings
from components.tuning.trial import Rung, folder_of

STATUS: Mapping[str, Status] = {"done": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


class Log:
    """The search in `folder` as it grows; `sweep` is what it is now. The search's process alone writes it."""

    def __init__(self, folder: Path, tracker: Tracker, sweep: Sweep, row: RunRow) -> None:
        self.folder, self.tracker, self.row = folder, tracker, row
        parameters = {
            "run": row.model_dump(mode="json"),
            "space": dict(sweep.space),
            "rungs": str(sweep.rungs),
        }
        tags = self._tags(sweep) | {"searcher": sweep.searcher}
        tracking_run = tracker.begin(sweep.name, f"tune {sweep.run}", parameters, tags)
        self.sweep = dataclasses.replace(sweep, tracking_run=tracking_run)
        self._write()

    def _tags(self, sweep: Sweep) -> dict[str, str]:
        return {"product": sweep.product, "family": sweep.family, "run": sweep.run, "sweep": sweep.name}

    def _write(self) -> None:
        write_sweep(self.folder, self.sweep)

    def trial_of(self, settings: Settings) -> Trial:
        """The trial with these settings that is not over, if an interrupted search left one, or else a new one."""
        waiting = [one for one in self.sweep.trials if not one.over and one.settings == settings]
        number = 1 + max((one.number for one in self.sweep.trials), default=0)
        return waiting[0] if waiting else Trial(number, settings)

    def begin(self, settings: Settings) -> Trial:
        """Take a trial up; it is numbered in the order in which trials begin."""
        trial = self.trial_of(settings)
        self._keep(trial)
        self._tell(lambda: self._begin_child(trial))
        return self.trial(trial.number)

    def _begin_child(self, trial: Trial) -> None:
        name, parameters = f"{self.sweep.run} trial {trial.number}", {"model": dict(trial.settings)}
        child = self.tracker.begin(
            f"{self.sweep.name}-{trial.number}",
            name,
            parameters,
            self._tags(self.sweep),
            self.sweep.tracking_run,
        )
        self._keep(dataclasses.replace(trial, tracking_run=child))

    def measured(self, number: int, rung: Rung) -> Trial:
        """Note what a trial had come to at a rung."""
        score, trial = rung.score, self.trial(number)
        if not self.sweep.better:
            self.sweep = dataclasses.replace(self.sweep, metric=score.metric, better=score.better)
        values = {**trial.values, rung.step: score.value}
        self._keep(dataclasses.replace(trial, values=values, seconds=rung.seconds))
        found = {f"val/{score.metric}": score.value, **rung.losses}
        self._tell(lambda: self.tracker.log(trial.tracking_run, {rung.step: found}))
        return self.trial(number)

    def ended(self, number: int, state: TrialState, reason: str = "") -> Trial:
        """Note how a trial ended; its resume state, which nobody needs any more, is removed."""
        trial = dataclasses.replace(self.trial(number), state=state, reason=reason)
        self._keep(trial)
        if trial.over:
            shutil.rmtree(self.folder_of(trial) / "checkpoints", ignore_errors=True)
            self._tell(lambda: self.tracker.end(trial.tracking_run, STATUS[state]))
        return trial

    def end(self, status: Status) -> None:
        """Close the search in the run log, and the trials that were interrupted."""
        for trial in self.sweep.trials:
            if not trial.over and trial.tracking_run:
                self._tell(functools.partial(self.tracker.end, trial.tracking_run, "KILLED"))
        best = self.sweep.best
        if best is not None and best.value is not None:
            found = {best.number: {f"val/{self.sweep.metric}": best.value}}
            self._tell(lambda: self.tracker.log(self.sweep.tracking_run, found))
        self._tell(lambda: self.tracker.end(self.sweep.tracking_run, status))

    def trial(self, number: int) -> Trial:
        """The trial of that number as it is now."""
        return next(one for one in self.sweep.trials if one.number == number)

    def folder_of(self, trial: Trial) -> Path:
        """Where a trial's training lies."""
        return self.folder / "trials" / folder_of(trial.settings)

    def _keep(self, trial: Trial) -> None:
        self.sweep = self.sweep.with_trial(trial)
        self._write()

    def _tell(self, what: Callable[[], object]) -> None:
        """A run log that does not answer must not end a search: all is on disk."""
        try:
            what()
        except UserError as error:
            logging.getLogger(__name__).warning("The run log misses a part of %s: %s", self.sweep.name, error)
