"""A training by Ray Train, here or on workers: how many CPUs and GPUs each gets, and what becomes of lost ones."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from components import cluster
from components.cluster import Capacity
from components.errors import FailedError, UserError
from components.project import TrainOptions
from components.settings import Settings, quiet_environment
from components.train.plan import Plan

if TYPE_CHECKING:
    from ray.exceptions import RayActorError

RETRIES = 3
"""Times that Ray Train starts the workers again, from the last checkpoint, after one was lost."""
RELEASE = 10.0
"""Seconds in which Ray gives back the CPUs of what has just ended."""


def workers_of(settings: Settings, options: TrainOptions, asked: int | None) -> int:
    """As many workers as are asked for, or else as the run's row says, or else one of the Ray that is there.

    Where none is, 0: starting it takes seconds, and beside a training on all cores its processes, which wake some
    thousand times a second, cost a tenth of the speed.
    """
    if asked is None:
        asked = options.workers
    return int(cluster.there(settings)) if asked is None else asked


def fit_here(plan: Plan) -> None:
    """Run `plan` in this process, by Ray Train's local mode, for which no Ray is started."""
    quiet_environment()  # Ray Train reads its version when it is imported
    from ray.train import RunConfig, ScalingConfig

    from components.train.trainer import Here
    from components.train.worker import work

    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it tells everybody of its local mode
    threads = torch.get_num_threads()
    trainer = Here(
        work,
        train_loop_config={"plan": plan, "threads": plan.options.threads or min(threads, cluster.cores())},
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=plan.folder.name),
    )
    try:
        trainer.fit()
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        raise FailedError(
            f"The memory does not hold {plan.folder.name} ({_cause(error)}); lower train.batch, or raise "
            "train.accumulate, which keeps the batch and computes it in parts."
        ) from error
    finally:
        torch.set_num_threads(threads)


def _of_memory(error: BaseException) -> bool:
    """Whether it says that there is no memory left; torch's allocator for the CPU has no class of its own for that."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)


def _cause(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def fit(settings: Settings, plan: Plan, workers: int) -> None:
    """Run `plan` on `workers` Ray Train workers: one GPU each if there are any, otherwise an equal share of CPUs."""
    cluster.connect(settings)
    from ray.exceptions import RayActorError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError

    from components.train.trainer import Alone, Trainer
    from components.train.worker import work

    gpu, cpus = granted(workers, plan.options.threads)
    name = f"{plan.folder.name}-{uuid.uuid4().hex[:8]}"  # a name used before would make Ray resume from it
    storage = settings.shared / "ray"
    trainer = Trainer(
        work,
        train_loop_config={"plan": plan, "threads": plan.options.threads or cpus},
        torch_config=Alone() if workers == 1 else None,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=RETRIES, controller_failure_limit=RETRIES),
        ),
    )
    try:
        with _ending_by_interrupts():
            trainer.fit()
    except TrainingFailedError as error:
        if (plan.folder / "outcome.json").is_file():  # rank 0 has said why
            return
        raise FailedError(
            f"The workers of {plan.folder.name} failed ({_cause(error)}); the same command goes on from the last "
            "checkpoint."
        ) from error
    except RayActorError as error:
        # what the lost controller had reserved is given back when this process leaves the cluster
        cluster.disconnect(settings)
        raise FailedError(said_of_controller(plan.folder.name, error)) from error
    finally:
        shutil.rmtree(storage / name, ignore_errors=True)


def said_of_controller(run: str, error: RayActorError) -> str:
    """What became of the process in which Ray Train looks after a training: it never began, or it ended."""
    if error.actor_init_failed:
        cause = str(error).strip().splitlines()[-1]
        return (
            f"Ray Train could not begin {run} on the cluster ({cause}); have every node run the environment "
            "of this one, with Genloom installed, and type the same command again."
        )
    return (
        f"The process in which Ray Train looked after {run} was lost, perhaps for want of memory; "
        "the same command goes on from the last checkpoint."
    )


@contextmanager
def _ending_by_interrupts() -> Iterator[None]:
    """Have Ctrl-C raise KeyboardInterrupt, for which Ray Train ends the workers, and then calls `sys.exit`.

    Its handler would also stay, and swallow what is meant for whatever comes after the training.
    """
    mine = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)


def check_workers(workers: int, threads: int | None) -> None:
    """Raise `UserError` for more workers or threads than this machine has, before anything is started for them."""
    have = cluster.foreseen()
    if have is not None and workers:
        share(workers, threads, [have])
    elif have is not None and (threads or 0) > have.cpus:
        raise UserError(
            f"train.threads is {threads}, and there are {have.cpus:g} CPUs; ask for at most {have.cpus:g}."
        )


def share(workers: int, threads: int | None, nodes: Sequence[Capacity]) -> tuple[bool, int]:
    """(whether each worker gets a GPU, CPUs for each) out of what the nodes have, of which each worker sees one.

    Raises `UserError` with the arithmetic.
    """
    have = cluster.total(nodes)
    if have.gpus >= 1:
        if workers > have.gpus:
            raise UserError(
                f"{workers} workers need {workers} GPUs, one each, and there are {have.gpus:g}; "
                f"ask for at most --workers {int(have.gpus)}."
            )
        each = threads or min(max(1, int(node.cpus // node.gpus)) for node in nodes if node.gpus >= 1)
        if (room := _room(nodes, each, gpu=True)) < workers:
            raise UserError(
                f"{workers} workers need a GPU and {each} CPUs each on one node, and the nodes have room for {room} "
                "such; ask for fewer --workers, or lower train.threads."
            )
        return True, each
    each = threads or 1
    if workers * each > have.cpus:
        raise UserError(
            f"{workers} workers × {each} CPU each = {workers * each} CPUs, and there are {have.cpus:g}; "
            f"ask for at most --workers {int(have.cpus // each)}."
        )
    for each in [threads] if threads else range(int(max(node.cpus for node in nodes)), 0, -1):
        if _room(nodes, each) >= workers:
            return False, each
    raise UserError(
        f"{workers} workers × {each} CPU each do not fit, as each needs them on one node, and the nodes have "
        f"{', '.join(f'{node.cpus:g}' for node in nodes)}; ask for at most --workers {_room(nodes, each)}."
    )


def _room(nodes: Sequence[Capacity], each: int, gpu: bool = False) -> int:
    """How many workers of so many CPUs, and perhaps a GPU, the nodes can hold."""
    rooms = [(int(node.cpus // each), int(node.gpus)) for node in nodes]
    return sum(min(room) if gpu else room[0] for room in rooms)


def granted(workers: int, threads: int | None) -> tuple[bool, int]:
    """As `share`, out of what nothing else on the cluster, such as a server's replicas, holds now.

    What a training before has held is given back within seconds, so it is waited for. Raises `UserError`.
    """
    gpu, each = share(workers, threads, cluster.nodes())
    late = time.monotonic() + RELEASE
    while _room(free := cluster.free_nodes(), each, gpu) < workers and time.monotonic() < late:
        time.sleep(0.2)
    for fewer in [threads] if threads else range(each, 0, -1):
        if _room(free, fewer, gpu) >= workers:
            return gpu, fewer
    have = cluster.total(free)
    needed = f"{workers} GPUs and {threads or 1} CPUs for each" if gpu else f"{workers * (threads or 1)} CPUs"
    left = f"{have.cpus:g} CPUs" + (f" and {have.gpus:g} GPUs" if gpu else "")
    raise UserError(
        f"{workers} workers need {needed}, and something else on the cluster, such as a server's replicas or another "
        f"training, leaves {left}; wait for it, lower its cpus or gpus, or ask for fewer --workers or train.threads."
    )
