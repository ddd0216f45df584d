"""A search for the settings of a run: checked here, done by Ray Tune, gone on with by the same command."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components import cluster
from components.artifact import read_manifest
from components.errors import UserError, unknown
from components.evaluation.validation import validation
from components.modalities.modality import kind_of as modality_kind
from components.project import Project, RunRow
from components.settings import writable_home
from components.terms import WITHHELD
from components.tracking import Tracker
from components.train.fit import granted
from components.train.plan import Plan, about_run, check_rows, check_run
from components.train.wanted import Wanted, plan_of
from components.tuning.log import Log
from components.tuning.measure import NATS
from components.tuning.records import Sweep, Told, alone, read_sweep, sweep_folder
from components.tuning.report import write_report
from components.tuning.space import Range, as_it_is, space_of
from components.tuning.trial import Job
from components.tuning.tune import Search, search

SEARCHERS = ("optuna", "random")
REDUCTION = 3
"""Of the trials that reach a rung a third goes on; the next rung is three times as high (Li et al. 2020)."""


@dataclass(frozen=True)
class Asked:
    """What a person asks of a search besides the run: `steps` caps each trial, `minutes` this command.

    `trials`, `minutes` and `concurrent` may differ when a search is gone on with; the others make it another one.
    """

    overrides: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    trials: int = 20
    steps: int | None = None
    minutes: float | None = None
    metric: str = ""
    seed: int = 0
    searcher: str = "optuna"
    early: bool = True
    concurrent: int | None = None

    @property
    def assignments(self) -> list[str]:
        """All overrides, the cap of steps among them."""
        return [*self.overrides, *([f"train.steps={self.steps}"] if self.steps is not None else [])]


def check_asked(project: Project, run: str, asked: Asked) -> tuple[RunRow, dict[str, Range]]:
    """The row and the ranges of a search; raises `UserError` for what cannot be, before anything is prepared."""
    row = project.run(run, asked.assignments)
    family = check_run(project, run, row)
    fixed = [
        text.partition("=")[0].removeprefix("model.") for text in asked.overrides if text.startswith("model.")
    ]
    space = space_of(family, asked.over, fixed)
    if asked.trials < 1:
        raise UserError(f"--trials is {asked.trials}; ask for at least 1.")
    if asked.minutes is not None and asked.minutes <= 0:
        raise UserError(f"--minutes is {asked.minutes:g}; give a time above 0.")
    if asked.seed < 0:
        raise UserError(f"--seed is {asked.seed}; give 0 or more.")
    if asked.searcher not in SEARCHERS:
        raise unknown("searcher", asked.searcher, SEARCHERS)
    _check_metric(project, row, asked.metric)
    if (have := cluster.foreseen()) is not None:
        check_concurrent(1 if asked.concurrent is None else asked.concurrent, row.train.threads, have)
    return row, space


def _check_metric(project: Project, row: RunRow, metric: str) -> None:
    """Raise `UserError` unless some report of the product's modality could have the metric."""
    modality = modality_kind(project.dataset(project.product(row.product).dataset).modality)
    known = (NATS, *modality.reported(), *([WITHHELD] if project.terms(row.product).filters else []))
    if metric and metric not in known:
        raise unknown("metric", metric, known)


def check_concurrent(concurrent: int, threads: int | None, have: cluster.Capacity) -> None:
    """Raise `UserError`, with the arithmetic, if so many trials do not fit at once."""
    if concurrent < 1:
        raise UserError(f"--concurrent is {concurrent}; ask for at least 1.")
    if have.gpus >= 1 and concurrent > have.gpus:
        raise UserError(
            f"{concurrent} trials at once need {concurrent} GPUs, one each, and there are {have.gpus:g}; "
            f"ask for at most --concurrent {int(have.gpus)}."
        )
    each = threads or 1
    if concurrent * each > have.cpus:
        most = int(have.cpus // each)
        mend = f"ask for at most --concurrent {most}" if most else "lower train.threads"
        raise UserError(
            f"{concurrent} trials at once × {each} CPU each = {concurrent * each} CPUs, and there are "
            f"{have.cpus:g}; {mend}."
        )


def rungs_of(steps: int, early: bool) -> tuple[int, ...]:
    """The steps at which trials are compared: a ninth, a third, all of them; only all if none may stop `early`."""
    first = steps // REDUCTION**2
    return (first, first * REDUCTION, steps) if early and first else (steps,)


def tune(project: Project, run: str, asked: Asked, told: Told | None = None) -> Sweep:
    """Search the settings of `run` on its prepared data; the same call goes on with what is there.

    `told` hears of each trial that begins, is measured and ends. Raises `UserError` for what does not fit, and
    `FailedError` if what is asked for cannot be measured. What was found is on disk in any case, also after Ctrl-C.
    """
    _, space = check_asked(project, run, asked)
    writable_home(project.settings)
    wanted = plan_of(project, run, asked.assignments)
    check_rows(run, wanted.row, wanted.dataset, 1)
    validation(wanted.dataset)
    new = _new(project, wanted, asked, space)
    folder = sweep_folder(project.settings, new.name)
    with alone(folder):
        found = read_sweep(folder) or new
        if found.over >= asked.trials:
            return found
        concurrent, gpu, cpus = _share(project, wanted, asked, asked.trials - found.over)
        log = Log(folder, Tracker(project.settings), found, wanted.row)
        todo = Search(
            job=_job(project, wanted, asked, space, found.rungs, folder, wanted.row.train.threads or cpus),
            first=as_it_is(space, wanted.family),
            trials=asked.trials,
            concurrent=concurrent,
            resources={"CPU": cpus, **({"GPU": 1} if gpu else {})},
            seconds=None if asked.minutes is None else 60 * asked.minutes,
            searcher=asked.searcher,
            seed=asked.seed,
            reduction=REDUCTION,
        )
        try:
            search(project.settings, todo, log, told)
            log.end("FINISHED")
        except BaseException as error:
            log.end("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        finally:
            write_report(folder, log.sweep)
        return log.sweep


def _new(project: Project, wanted: Wanted, asked: Asked, space: dict[str, Range]) -> Sweep:
    """The search before its first trial; its name holds a hash of all that makes it another one."""
    primary = asked.metric or project.product(wanted.row.product).primary or ""
    rungs = rungs_of(wanted.row.train.steps, asked.early)
    ranges = {name: str(field) for name, field in space.items()}
    identity = [wanted.key, ranges, primary, rungs, asked.searcher, asked.seed]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Sweep(
        name=f"{wanted.run}-{digest[:8]}",
        run=wanted.run,
        product=wanted.row.product,
        family=wanted.row.family,
        dataset=wanted.dataset.name,
        revision=wanted.dataset.revision,
        space=ranges,
        overrides=asked.overrides,
        steps=wanted.row.train.steps,
        rungs=rungs,
        searcher=asked.searcher,
        seed=asked.seed,
        metric=primary,
    )


def _share(project: Project, wanted: Wanted, asked: Asked, left: int) -> tuple[int, bool, int]:
    """(trials at once, whether each has a GPU, the CPUs of each), out of what the Ray that is joined has free."""
    cluster.connect(project.settings)
    have = cluster.capacity()
    concurrent = max(1, int(have.gpus)) if asked.concurrent is None else asked.concurrent
    check_concurrent(concurrent, wanted.row.train.threads, have)
    concurrent = min(left, concurrent)
    return concurrent, *granted(concurrent, wanted.row.train.threads)


def _job(
    project: Project,
    wanted: Wanted,
    asked: Asked,
    space: dict[str, Range],
    rungs: Sequence[int],
    folder: Path,
    threads: int,
) -> Job:
    """What each trial's process gets."""
    row = wanted.row.model_copy(update={"train": wanted.row.train.model_copy(update={"workers": 0})})
    plan = Plan(
        folder=folder / "trials",
        dataset=wanted.dataset.folder,
        family=row.family,
        hyperparameters=dataclasses.asdict(wanted.family),
        options=row.train,
        about=about_run(project, wanted.run, row, wanted.dataset, wanted.key),
        task=wanted.task,
        start=wanted.start,
    )
    product = project.product(row.product)
    return Job(
        plan=plan,
        run=wanted.run,
        row=row,
        space=space,
        rungs=tuple(rungs),
        metric=asked.metric or product.primary or "",
        cache=project.settings.shared / "cache" / "val",
        terms=project.terms(row.product),
        threads=threads,
        start=read_manifest(wanted.start)["digest"] if wanted.start else "",
    )
