"""One trial, in a process of its own: an ordinary training that stops at each rung to be measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from pydantic import TypeAdapter

from components import accelerator, files
from components.artifact import save
from components.data.dataset import Dataset, open_dataset
from components.errors import FailedError, UserError
from components.evaluation.validation import validation
from components.families.family import kind_of
from components.project import RunRow
from components.terms import Terms
from components.train import checkpoint
from components.train.adapters import adapt, merged
from components.train.loop import train
from components.train.meter import Place
from components.train.plan import Plan, check_options, check_shape, check_start, family_of, key_of
from components.train.runs import report_of
from components.train.step import build, networks_for
from components.tuning.measure import Score, UnmeasuredError, measure
from components.tuning.space import Range, Settings, rounded

LOGGED = "loss/"
"""What the names begin with of the progress that is handed on beside the metric."""


@dataclass(frozen=True)
class Job:
    """All that a trial's process needs; paths are absolute and seen by every node.

    `plan` is that of the run as it is, with the folder of all trials; `start` is the digest of its `init`.
    """

    plan: Plan
    run: str
    row: RunRow
    space: Mapping[str, Range]
    rungs: tuple[int, ...]
    metric: str
    cache: Path
    terms: Terms
    threads: int
    start: str


@dataclass(frozen=True)
class Rung:
    """What a trial had come to at a step: the metric, the losses, the seconds of training up to there."""

    step: int
    score: Score
    losses: Mapping[str, float]
    seconds: float


RUNGS = TypeAdapter(list[Rung])


def folder_of(settings: Settings) -> str:
    """The name of the folder of the trial with these settings."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:12]


def run_trial(config: dict[str, Any], job: Job) -> None:
    """What Ray Tune runs: report each rung, from which on the scheduler may have seen enough.

    A failure with a name is reported, too, so that the process goes on with the next trial, and the searcher hears
    that these settings are as bad as can be. Raises `UnmeasuredError`.
    """
    from ray import tune

    torch.set_num_threads(job.threads)
    try:
        for rung in climb(job, rounded(job.space, config)):
            tune.report({"step": rung.step, "cost": rung.score.cost, "rung": dataclasses.asdict(rung)})
    except UnmeasuredError:
        raise
    except UserError as error:
        tune.report({"step": 0, "cost": math.inf, "failed": str(error)})


def climb(job: Job, settings: Settings) -> Iterator[Rung]:
    """Train from rung to rung and measure at each; what was measured before is handed out as it is.

    Raises `UserError` for settings that the family refuses, `FailedError` for a loss that is not finite.
    """
    plan, dataset = trial_plan(job, settings)
    plan.folder.mkdir(parents=True, exist_ok=True)
    for step in job.rungs:
        with FileLock(plan.folder / "lock"):  # the same settings may be drawn twice
            found = _known(plan.folder)
            if step not in found:
                _train_to(plan, step)
                found[step] = _measured(job, plan, dataset, step)
                files.write(plan.folder / "rungs.json", RUNGS.dump_json([*found.values()], indent=2))
        yield found[step]


def trial_plan(job: Job, settings: Settings) -> tuple[Plan, Dataset]:
    """The training of the run with `settings`, and its data; raises `UserError` if they do not fit together."""
    row = job.row.model_copy(update={"model": {**job.row.model, **settings}})
    family = family_of(job.run, row)
    dataset = open_dataset(job.plan.dataset, job.plan.task)
    check_shape(job.run, family, dataset.shape, row.train.steps)
    check_options(job.run, row, family, dataset)
    if job.plan.start is not None:
        check_start(job.run, row, family, dataset, job.plan.start)
    key = key_of(row, dataset, job.plan.task, job.start)
    about = dataclasses.replace(job.plan.about, key=key, parameters=row.model_dump(mode="json"))
    plan = dataclasses.replace(
        job.plan,
        folder=job.plan.folder / folder_of(settings),
        hyperparameters=dataclasses.asdict(family),
        about=about,
    )
    return plan, dataset


def _known(folder: Path) -> dict[int, Rung]:
    """What was measured before the search was interrupted."""
    path = folder / "rungs.json"
    try:
        found = RUNGS.validate_json(path.read_bytes()) if path.is_file() else []
    except ValueError as error:  # pydantic's error is one
        raise UserError(
            f"The file {path} is damaged; delete the folder {folder} and search again."
        ) from error
    return {rung.step: rung for rung in found}


def _train_to(plan: Plan, step: int) -> None:
    """Train up to exactly `step`, where a checkpoint is, by the loop's own stop file, or to the end.

    The loop looks for the file when it reports, which it is told to do at `step` and not before.
    """
    last = step == plan.options.steps
    if not last and _reached(plan.folder) >= step:
        return
    every = {"log_every": step, "checkpoint_every": step, "sample_every": plan.options.steps}
    (plan.folder / "stop").touch()
    device = accelerator.device()
    state = train(
        dataclasses.replace(plan, options=plan.options.model_copy(update=every)), Place(0, 1, device)
    )
    if state != ("done" if last else "stopped"):
        raise FailedError(f"The trial {plan.folder.name} is {state} at step {step}; delete {plan.folder}.")


def _reached(folder: Path) -> int:
    """The step of the last checkpoint; 0 without one."""
    found = checkpoint.checkpoints(folder)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def _measured(job: Job, plan: Plan, dataset: Dataset, step: int) -> Rung:
    """Measure the weights of `step` on validation rows."""
    held_out = validation(dataset)
    if step == plan.options.steps:
        score = measure(plan.folder / "artifact", held_out, job.metric, job.cache, job.terms)
    else:
        with tempfile.TemporaryDirectory() as folder:
            artifact = Path(folder) / "artifact"
            _save_as_it_is(plan, dataset, artifact)
            score = measure(artifact, held_out, job.metric, job.cache, job.terms)
    line = _last_line(plan.folder)
    losses = {name: value for name, value in line.items() if name.startswith(LOGGED)}
    return Rung(step, score, losses, float(line.get("seconds", 0.0)))


def _save_as_it_is(plan: Plan, dataset: Dataset, artifact: Path) -> None:
    """Make an artifact of the last checkpoint: of the averaged weights, where the run averages them."""
    family, options = kind_of(plan.family)(**plan.hyperparameters), plan.options
    networks = networks_for(family, dataset.shape, options.seed)
    if options.adapters:
        adapt(networks, options.adapters)
    trainee = build(family, networks, options, accelerator.device(), 1)
    checkpoint.restore(plan.folder, trainee, 0)
    sampled = trainee.sampled
    whole = merged(family.networks(dataset.shape), sampled) if options.adapters else sampled
    save(artifact, family, whole, dataset.shape, plan.about, plan.folder / "assets")


def _last_line(folder: Path) -> Mapping[str, Any]:
    """What the loop said last."""
    path = folder / "progress.jsonl"
    lines = path.read_bytes().splitlines() if path.is_file() else []
    return (report_of(lines[-1]) or {}) if lines else {}
