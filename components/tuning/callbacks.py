"""What Ray Tune calls while a search goes on: it is told when a trial is stopped, and tells what trials come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import TypeAdapter
from ray import cloudpickle
from ray.exceptions import RayActorError
from ray.tune import Callback, Stopper
from ray.tune.schedulers import ASHAScheduler

from components.errors import UserError
from components.tuning.log import Log
from components.tuning.measure import UnmeasuredError
from components.tuning.records import Sweep, Told, Trial
from components.tuning.space import Space, rounded
from components.tuning.trial import Rung

RUNG = TypeAdapter(Rung)


class Stopping(ASHAScheduler):  # type: ignore[misc]  # Ray declares no types
    """ASHA by the step that the loop has reached; `stopped` are the trials that it ended before the last rung."""

    def __init__(self, rungs: Sequence[int], reduction: int) -> None:
        super().__init__(
            time_attr="step",
            metric="cost",
            mode="min",
            grace_period=rungs[0],
            max_t=rungs[-1],
            reduction_factor=reduction,
        )
        self.last, self.stopped = rungs[-1], set[str]()

    def replay(self, sweep: Sweep) -> None:
        """Take in what trials that are over had come to: Ray Tune keeps no scheduler's state."""
        for trial in sweep.trials:
            if trial.over:
                known = SimpleNamespace(trial_id=f"before-{trial.number}")
                self.on_trial_add(None, known)
                for step, value in sorted(trial.values.items()):
                    super().on_trial_result(None, known, {"step": step, "cost": sweep.sign * value})

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision == self.STOP and result.get("step", self.last) < self.last:
            self.stopped.add(trial.trial_id)
        return decision


class Halting(Stopper):  # type: ignore[misc]
    """Ends the search when it has a `reason`, such as that nothing can be measured."""

    def __init__(self) -> None:
        self.reason = ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether the search ends."""
        return bool(self.reason)


class Follower(Callback):  # type: ignore[misc]
    """Writes what becomes of each trial into the log, and hands it on."""

    def __init__(
        self, log: Log, space: Space, scheduler: Stopping, halting: Halting, told: Told | None
    ) -> None:
        self.log, self.space, self.scheduler, self.halting, self.told = log, space, scheduler, halting, told
        self.numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune keeps a copy to go on from, which we never do."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process begins."""
        if trial.trial_id not in self.numbers:
            begun = self.log.begin(rounded(self.space, trial.config))
            self.numbers[trial.trial_id] = begun.number
            self._tell(begun)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial was measured at a rung, or failed for a reason that has a name."""
        number = self.numbers[trial.trial_id]
        if "failed" in result:
            self._tell(self.log.ended(number, "failed", result["failed"]))
        elif "rung" in result:
            self._tell(self.log.measured(number, RUNG.validate_python(result["rung"])))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ended: at its last rung, by the scheduler, or half done because the time was over."""
        number = self.numbers[trial.trial_id]
        now = self.log.trial(number)
        if now.over:
            return
        if now.step >= self.scheduler.last:
            self._tell(self.log.ended(number, "done"))
        elif trial.trial_id in self.scheduler.stopped:
            self._tell(self.log.ended(number, "stopped"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed; the others go on, unless it failed for what would fail them all."""
        cause = cause_of(trial)
        if isinstance(cause, UnmeasuredError):
            self.halting.reason = str(cause)
            return
        if trial.trial_id in self.numbers:
            self._tell(self.log.ended(self.numbers[trial.trial_id], "failed", said(cause)))

    def _tell(self, trial: Trial) -> None:
        if self.told is not None:
            self.told(self.log.sweep, trial)


def cause_of(trial: Any) -> BaseException | None:
    """What was raised in the trial's process; None if that was lost."""
    path = trial.pickled_error_file  # Ray Tune's own getter looks where nothing is yet
    if path is None or not Path(path).is_file():
        return None
    error: BaseException = cloudpickle.loads(Path(path).read_bytes())
    return getattr(error, "cause", None) or error


def said(cause: BaseException | None) -> str:
    """Why a trial failed, in one line."""
    if isinstance(cause, UserError):
        return str(cause)
    if cause is None or isinstance(cause, RayActorError):
        return "Its process was lost, perhaps for want of memory."
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
