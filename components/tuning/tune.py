"""The trials by Ray Tune: Optuna or chance proposes settings, ASHA stops what the others leave behind."""

from __future__ import annotations

import functools
import logging
import math
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components import cluster
from components.errors import FailedError
from components.families.sampling import mix
from components.settings import Settings
from components.tuning.log import Log
from components.tuning.records import Sweep, Told, Trial
from components.tuning.space import Settings as Trying
from components.tuning.space import Space
from components.tuning.trial import Job, run_trial

QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: it raises KeyboardInterrupt, as everywhere else
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True)
class Search:
    """What is to be done: trials up to the number `trials`, those that are over included.

    `first` are the settings that the run has now, which are tried first; None if they are out of range.
    """

    job: Job
    first: Trying | None
    trials: int
    concurrent: int
    resources: Mapping[str, float]
    seconds: float | None
    searcher: str
    seed: int
    reduction: int


def search(settings: Settings, todo: Search, log: Log, told: Told | None) -> None:
    """Do the trials that are missing; the log has what they come to. Raises `FailedError` if none can be measured.

    The process is connected to a Ray, from which it is parted if anything is raised, so that no trial goes on.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("ray.tune", "ray.train", "optuna"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    storage, name = settings.shared / "ray", f"{log.folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        reason = _fit(todo, log, told, str(storage), name)
    except BaseException:
        cluster.disconnect(settings)
        raise
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)
    if reason:
        raise FailedError(reason)


def _fit(todo: Search, log: Log, told: Told | None, storage: str, name: str) -> str:
    """Let Ray Tune do the trials; returns why it was ended before, if it was."""
    from ray import tune

    from components.tuning.callbacks import Follower, Halting, Stopping

    halting = Halting()
    scheduler = Stopping(todo.job.rungs, todo.reduction)
    scheduler.replay(log.sweep)
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(run_trial, job=todo.job), dict(todo.resources)),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(todo, log.sweep),
            scheduler=scheduler,
            num_samples=todo.trials - log.sweep.over,
            max_concurrent_trials=todo.concurrent,
            time_budget_s=todo.seconds,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            verbose=0,
            stop=halting,
            callbacks=[Follower(log, todo.job.space, scheduler, halting, told)],
        ),
    )
    tuner.fit()
    return halting.reason


def _searcher(todo: Search, sweep: Sweep) -> Any:
    """What proposes settings, told of all that is known: what was left half done comes first, then the run as it is."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    seed = mix(todo.seed, sweep.over) % 2**32  # not the same proposals again when a search is gone on with
    kind = {"optuna": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[todo.searcher]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    waiting = [dict(trial.settings) for trial in sweep.trials if not trial.over]
    fresh = [dict(todo.first)] if todo.first is not None and not sweep.trials else []
    found = OptunaSearch(
        space=_distributions(todo.job.space),
        metric="cost",
        mode="min",
        points_to_evaluate=waiting + fresh,
        sampler=kind(seed=seed),
    )
    for trial in sweep.trials:
        if trial.over:
            found.add_evaluated_point(dict(trial.settings), _cost(sweep, trial))
    return found


def _distributions(space: Space) -> dict[str, Any]:
    """The ranges as Optuna takes them."""
    from optuna.distributions import FloatDistribution, IntDistribution

    return {
        name: IntDistribution(int(field.low), int(field.high), log=field.log)
        if field.whole
        else FloatDistribution(field.low, field.high, log=field.log)
        for name, field in space.items()
    }


def _cost(sweep: Sweep, trial: Trial) -> float:
    """The metric so that less is better; of a trial that failed as bad as can be."""
    if trial.state == "failed" or trial.value is None:
        return math.inf
    return sweep.sign * trial.value
