"""A training on Ray Train's workers: how many CPUs and GPUs each gets, and what becomes of lost ones."""

from __future__ import annotations

import shutil
import uuid

from components import cluster
from components.cluster import Capacity
from components.errors import FailedError, UserError
from components.settings import Settings
from components.train.plan import Plan

RETRIES = 3
"""Times that Ray Train starts the workers again, from the last checkpoint, after one was lost."""


def fit(settings: Settings, plan: Plan, workers: int) -> None:
    """Run `plan` on `workers` Ray Train workers: one GPU each if there are any, otherwise an equal share of CPUs."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from components.train.worker import work

    gpu, cpus = share(workers, plan.options.threads, cluster.capacity())
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


def check_workers(workers: int, threads: int | None) -> None:
    """Raise `UserError` for more workers than this machine can hold, before anything is started for them."""
    have = cluster.foreseen()
    if have is not None and workers:
        share(workers, threads, have)


def share(workers: int, threads: int | None, have: Capacity) -> tuple[bool, int]:
    """(whether each worker gets a GPU, CPUs for each) out of what there is; raises `UserError` with the arithmetic."""
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
