"""Launches a training by Ray Train: in this process, or on as many workers as asked for."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from components.errors import FailedError, UserError
from components.project import Project
from components.settings import Settings, writable_home
from components.tracking import Status, Tracker
from components.train.attempts import Trained, alone, attempt, finished, sweep, trained_of
from components.train.fit import check_workers, fit, fit_here, workers_of
from components.train.plan import Plan, about_run, check_rows
from components.train.runs import RunRecord, load_run, read_outcome, write_run
from components.train.wanted import Wanted, plan_of, with_workers
from components.train.watch import Progress, Watch


def train(
    project: Project,
    run: str,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train `run` of the project on its prepared data; goes on from the last checkpoint after a kill.

    `workers` 0 trains in this process, by Ray Train's local mode, 1 or more are processes of a Ray; by default as
    the run's row says, or else one of the Ray that is there, or else 0. A training that is complete is returned as
    it is, unless `fresh`. Raises `UserError` for what does not fit, and `FailedError` if a loss is not finite or
    workers were lost too often.
    """
    settings = project.settings
    writable_home(settings)
    wanted = plan_of(project, run, overrides)
    count = workers_of(settings, wanted.row.train, workers)
    wanted = dataclasses.replace(wanted, row=with_workers(wanted.row, count))
    check_workers(count, wanted.row.train.threads)
    check_rows(run, wanted.row, wanted.dataset, count)
    folder = attempt(settings, run, wanted.key, fresh)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        sweep(folder)
        if (done := finished(folder)) is not None:
            return done
        plan = Plan(
            folder=folder,
            dataset=wanted.dataset.folder,
            family=wanted.row.family,
            hyperparameters=dataclasses.asdict(wanted.family),
            options=wanted.row.train,
            about=about_run(project, run, wanted.row, wanted.dataset, wanted.key),
            task=wanted.task,
            start=wanted.start,
        )
        return _train(settings, plan, wanted, count, progress)


def _train(
    settings: Settings, plan: Plan, wanted: Wanted, workers: int, progress: Progress | None
) -> Trained:
    tracker = Tracker(settings)
    row = wanted.row
    parameters = row.model_dump(mode="json")
    tags = {"product": row.product, "family": row.family, "key": wanted.key, "run": wanted.run}
    tracking_run = tracker.begin(plan.folder.name, wanted.run, parameters, tags)
    for stale in ("stop", "outcome.json"):
        (plan.folder / stale).unlink(missing_ok=True)
    record = write_run(
        RunRecord(
            id=plan.folder.name,
            run=wanted.run,
            product=row.product,
            family=row.family,
            key=wanted.key,
            parameters=parameters,
            dataset=wanted.dataset.name,
            revision=wanted.dataset.revision,
            created=_created(plan.folder),
            workers=workers,
            steps=row.train.steps,
            pid=os.getpid(),
            tracking_run=tracking_run,
            folder=plan.folder,
        )
    )
    try:
        with Watch(plan.folder, tracker, tracking_run, progress):
            _run(settings, plan, workers)
        return _conclude(tracker, record)
    except BaseException as error:
        _abandon(tracker, record, error)
        raise


def _created(folder: Path) -> str:
    if (folder / "run.json").is_file():
        return load_run(folder).created
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _run(settings: Settings, plan: Plan, workers: int) -> None:
    if workers == 0:
        fit_here(plan)
    else:
        fit(settings, plan, workers)


def _conclude(tracker: Tracker, record: RunRecord) -> Trained:
    """Write how the run ended; raises `FailedError` unless it is done."""
    state, reason = read_outcome(record)
    if state == "done":
        record = write_run(dataclasses.replace(record, state="done"))
        _end(tracker, record, "FINISHED")
        return trained_of(record, skipped=False)
    if state == "stopped":
        reason = f"The run {record.id} was stopped by request; the same command goes on from its checkpoint."
    raise EndedError(state, reason)


class EndedError(FailedError):
    """A training that ended without an artifact, and how."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def _abandon(tracker: Tracker, record: RunRecord, error: BaseException) -> None:
    """Write how the run ended: what is no `Exception` came from outside, as Ctrl-C, SIGTERM and Prefect's own do."""
    stopped = not isinstance(error, Exception) or (isinstance(error, EndedError) and error.state == "stopped")
    reason = str(error) or type(error).__name__
    write_run(dataclasses.replace(record, state="stopped" if stopped else "failed", reason=reason))
    _end(tracker, record, "KILLED" if stopped else "FAILED")


def _end(tracker: Tracker, record: RunRecord, status: Status) -> None:
    """Close the run in the log; one that does not answer does not undo a training, nor hide its error."""
    try:
        tracker.end(record.tracking_run, status)
    except UserError as error:
        logging.getLogger(__name__).warning("The run log misses the end of %s: %s", record.id, error)
