"""Launches a training: in this process, or by Ray Train on as many workers as asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from components import cluster
from components.artifact import read_manifest
from components.data.dataset import Dataset, open_dataset
from components.errors import FailedError, UserError
from components.families.family import Family, Task
from components.project import Project, RunRow
from components.promotion.registry import Registry
from components.settings import Settings, writable_home
from components.tracking import Status, Tracker
from components.train.loop import Place, run_to_outcome
from components.train.plan import (
    Plan,
    about_run,
    check_options,
    check_rows,
    check_run,
    check_shape,
    check_start,
    check_task,
    key_of,
)
from components.train.runs import RunRecord, load_run, read_outcome, write_run
from components.train.watch import Progress, Watch

RETRIES = 3
"""Times that Ray Train starts the workers again, from the last checkpoint, after one was lost."""


@dataclass(frozen=True)
class Trained:
    """A finished training: where its artifact is; `skipped` says that it was there already."""

    run_id: str
    folder: Path
    artifact: Path
    digest: str
    key: str
    tracking_run: str
    skipped: bool


def train(
    project: Project,
    run: str,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train `run` of the project on its prepared data; goes on from the last checkpoint after a kill.

    `workers` 0 trains in this process, 1 or more by Ray Train; by default as the run's row says. A training
    that is complete is returned as it is, unless `fresh`. Raises `UserError` for what does not fit, and
    `FailedError` if a loss is not finite or workers were lost too often.
    """
    settings = project.settings
    writable_home(settings)
    wanted = plan_of(project, run, overrides)
    count = wanted.row.train.workers if workers is None else workers
    wanted = dataclasses.replace(wanted, row=with_workers(wanted.row, count))
    check_rows(run, wanted.row, wanted.dataset, count)
    folder = attempt(settings, run, wanted.key, fresh)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
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


def with_workers(row: RunRow, count: int) -> RunRow:
    """The row as it is really trained, for the records."""
    return row.model_copy(update={"train": row.train.model_copy(update={"workers": count})})


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in a run's folder; the caller holds the lock."""
    for draft in [*folder.glob(".*-*"), *folder.glob("*/.step-*")]:
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


@dataclass(frozen=True)
class Wanted:
    """A training that was asked for: the row with its overrides, what it resolves to, and its key."""

    run: str
    row: RunRow
    family: Family
    dataset: Dataset
    task: Task
    start: Path | None
    key: str


def plan_of(project: Project, run: str, overrides: Sequence[str] = ()) -> Wanted:
    """Check and resolve a training without starting it; raises `UserError` for what does not fit."""
    row = project.run(run, overrides)
    family = check_run(project, run, row)
    product = project.product(row.product)
    task = Task(product.task)
    dataset = open_dataset(project.prepared / product.dataset, task)
    check_task(run, row, task, dataset)
    check_shape(run, family, dataset.shape)
    check_options(run, row, family, dataset)
    start = starting_point(project, row, family, dataset)
    if start is not None:
        check_start(run, row, family, dataset, start)
    key = key_of(row, dataset, task, read_manifest(start)["digest"] if start else "")
    return Wanted(run, row, family, dataset, task, start, key)


def starting_point(project: Project, row: RunRow, family: Family, dataset: Dataset) -> Path | None:
    """The artifact that `init` names, fetched and checked; a folder in Hugging Face's format is made one."""
    if row.init is None:
        return None
    if row.init.startswith("hf:"):
        from components.export import start_from_hf

        folder = project.root / Path(row.init.removeprefix("hf:")).expanduser()
        return start_from_hf(folder, family, dataset, project.settings.shared / "cache" / "starts")
    product, _, number = row.init.partition("/")
    registry = Registry(project.settings)
    return registry.fetch(registry.version(product, number))


def attempt(settings: Settings, run: str, key: str, fresh: bool) -> Path:
    """The folder of the latest attempt at this training; a new one if it is `fresh` and the latest is done."""
    first = settings.runs / f"{run}-{key[:10]}"
    number = 1
    while (settings.runs / f"{first.name}-{number + 1}").is_dir():
        number += 1
    latest = first if number == 1 else first.with_name(f"{first.name}-{number}")
    if fresh and finished(latest) is not None:
        return first.with_name(f"{first.name}-{number + 1}")
    return latest


def finished(folder: Path) -> Trained | None:
    """The training in `folder` if it is complete and its artifact whole."""
    if not (folder / "run.json").is_file():
        return None
    record = load_run(folder)
    if record.state != "done":
        return None
    try:
        return _trained(record, skipped=True)
    except UserError:  # a damaged artifact is made again from the last checkpoint
        return None


def _trained(record: RunRecord, skipped: bool) -> Trained:
    digest = read_manifest(record.artifact)["digest"]
    return Trained(
        record.id, record.folder, record.artifact, digest, record.key, record.tracking_run, skipped
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the run's lock; raises `UserError` if another process does."""
    try:
        with FileLock(folder / "lock", timeout=1):
            yield
    except Timeout as error:
        raise UserError(
            f"The run {folder.name} is being trained by another process; wait for it, "
            f"or type genloom runs stop {folder.name}."
        ) from error


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
    return datetime.now(UTC).isoformat(timespec="seconds")


def _run(settings: Settings, plan: Plan, workers: int) -> None:
    if workers == 0:
        if plan.options.threads:
            torch.set_num_threads(plan.options.threads)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        run_to_outcome(plan, Place(0, 1, device))
    else:
        cluster.connect(settings)
        fit(settings, plan, workers)


def fit(settings: Settings, plan: Plan, workers: int) -> None:
    """Run `plan` on `workers` Ray Train workers: one GPU each if there are any, otherwise an equal share of CPUs."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from components.train.worker import work

    gpu, cpus = share(workers, plan.options.threads)
    name = f"{plan.folder.name}-{uuid.uuid4().hex[:8]}"  # a name used before would make Ray resume from it
    storage = settings.shared / "ray"
    trainer = TorchTrainer(
        work,
        train_loop_config={"plan": plan, "threads": plan.options.threads or cpus},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name=name, storage_path=str(storage), failure_config=FailureConfig(max_failures=RETRIES)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        cause = " ".join(str(error).split())[:500]
        raise FailedError(
            f"The workers of {plan.folder.name} failed ({cause}); the same command goes on from the last checkpoint."
        ) from error
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def share(workers: int, threads: int | None) -> tuple[bool, int]:
    """(whether each worker gets a GPU, CPUs for each); raises `UserError` with the arithmetic."""
    have = cluster.capacity()
    if have.gpus >= 1:
        if workers > have.gpus:
            raise UserError(
                f"{workers} workers need {workers} GPUs, one each, and there are {have.gpus:g}; "
                f"ask for at most --workers {int(have.gpus)}."
            )
        return True, max(1, int(have.cpus) // int(have.gpus))
    each = threads or 1
    if workers * each > have.cpus:
        raise UserError(
            f"{workers} workers × {each} CPU each = {workers * each} CPUs, and there are {have.cpus:g}; "
            f"ask for at most --workers {int(have.cpus // each)}."
        )
    return False, threads or int(have.cpus) // workers


def _conclude(tracker: Tracker, record: RunRecord) -> Trained:
    """Write how the run ended; raises `FailedError` unless it is done."""
    state, reason = read_outcome(record)
    if state == "done":
        record = write_run(dataclasses.replace(record, state="done"))
        _end(tracker, record, "FINISHED")
        return _trained(record, skipped=False)
    if state == "stopped":
        reason = f"The run {record.id} was stopped by request; the same command goes on from its checkpoint."
    raise EndedError(state, reason)


class EndedError(FailedError):
    """A training that ended without an artifact, and how."""

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def _abandon(tracker: Tracker, record: RunRecord, error: BaseException) -> None:
    stopped = isinstance(error, KeyboardInterrupt) or (
        isinstance(error, EndedError) and error.state == "stopped"
    )
    reason = str(error) or type(error).__name__
    write_run(dataclasses.replace(record, state="stopped" if stopped else "failed", reason=reason))
    _end(tracker, record, "KILLED" if stopped else "FAILED")


def _end(tracker: Tracker, record: RunRecord, status: Status) -> None:
    """Close the run in the log; one that does not answer does not undo a training, nor hide its error."""
    try:
        tracker.end(record.tracking_run, status)
    except UserError as error:
        logging.getLogger(__name__).warning("The run log misses the end of %s: %s", record.id, error)
