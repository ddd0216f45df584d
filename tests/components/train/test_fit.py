from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from components import cluster
from components.cluster import Capacity
from components.errors import FailedError, UserError
from components.project import TrainOptions, open_project
from components.settings import Settings
from components.train import fit, worker
from components.train.fit import check_workers, said_of_controller, share, workers_of
from components.train.launch import train
from components.train.meter import Place
from components.train.plan import Plan
from components.train.runs import load_run

SMALL = ["train.steps=20", "train.threads=1", "model.width=64"]


def test_more_workers_than_cores_are_refused_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cores = cluster.cores()
    check_workers(0, None)
    check_workers(0, cores)
    check_workers(cores, None)
    with pytest.raises(
        UserError, match=rf"train.threads is {cores + 1}, and there are {cores} CPUs; ask for at most"
    ):
        check_workers(0, cores + 1)
    with pytest.raises(
        UserError, match=rf"{cores + 1} workers × 1 CPU each = {cores + 1} CPUs, and there are {cores};"
    ):
        check_workers(cores + 1, None)
    with pytest.raises(UserError, match=f"1 workers × {cores + 1} CPU each"):
        check_workers(1, cores + 1)


def test_workers_are_those_asked_for_or_the_rows_or_one_of_the_ray_that_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings, silent, two = Settings(home=tmp_path), TrainOptions(), TrainOptions(workers=2)
    assert [
        workers_of(settings, silent, 3),
        workers_of(settings, two, 0),
        workers_of(settings, two, None),
    ] == [3, 0, 2]
    assert workers_of(settings, silent, None) == 0
    cluster.announce(settings, os.getpid())  # a server of the project starts its Ray
    assert workers_of(settings, silent, None) == 1
    cluster.announce(settings, os.getpid(), "127.0.0.1:6379")
    assert workers_of(settings, silent, None) == 1
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert workers_of(Settings(home=tmp_path / "other"), silent, None) == 1


def test_another_cluster_is_asked_for_its_cores_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    check_workers(10_000, None)


def test_a_controller_that_never_began_is_told_from_one_that_was_lost() -> None:
    """Its first task fails where a node of the cluster has not what the driver has."""
    missing = ModuleNotFoundError("No module named 'components'")
    failed = RayTaskError("TrainController.__init__", "Traceback\nModuleNotFoundError: No module …", missing)
    begun = said_of_controller("digits-gan-1", ActorDiedError(failed))
    assert begun.startswith(
        "Ray Train could not begin digits-gan-1 on the cluster (ModuleNotFoundError: No module"
    )
    assert "every node" in begun
    lost = said_of_controller("digits-gan-1", ActorDiedError())
    assert "looked after digits-gan-1 was lost" in lost


def cpus(*each: float) -> list[Capacity]:
    return [Capacity(cpus=have, gpus=0) for have in each]


def test_workers_share_the_cores_or_have_a_gpu_each() -> None:
    assert share(3, None, cpus(8)) == (False, 2)
    assert share(2, 3, cpus(8)) == (False, 3)
    assert share(2, None, [Capacity(cpus=16, gpus=4)]) == (True, 4)
    assert share(3, None, [Capacity(cpus=16, gpus=2), Capacity(cpus=4, gpus=1), *cpus(1)]) == (True, 4)
    with pytest.raises(UserError, match=r"5 workers need 5 GPUs, one each, and there are 4; .* --workers 4"):
        share(5, None, [Capacity(cpus=16, gpus=4)])
    with pytest.raises(
        UserError, match=r"2 workers need a GPU and 8 CPUs each on one node, .* room for 1 such"
    ):
        share(2, 8, [Capacity(cpus=8, gpus=2)])


def test_a_workers_cpus_are_those_of_one_node() -> None:
    assert share(1, None, cpus(1, 1)) == (False, 1)
    assert share(3, None, cpus(8, 8)) == (False, 4)
    assert share(2, None, cpus(8, 8)) == (False, 8)
    with pytest.raises(
        UserError, match=r"as each needs them on one node, and the nodes have 1, 1; .* --workers 0"
    ):
        share(1, 2, cpus(1, 1))


def test_what_a_server_holds_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "RELEASE", 0.0)

    def given(
        have: list[Capacity], free: list[Capacity], workers: int, threads: int | None
    ) -> tuple[bool, int]:
        monkeypatch.setattr("components.cluster.nodes", lambda: have)
        monkeypatch.setattr("components.cluster.free_nodes", lambda: free)
        return fit.granted(workers, threads)

    assert given(cpus(2), cpus(2), 1, None) == (False, 2)
    assert given(cpus(2), cpus(1.5), 1, None) == (False, 1)
    assert given(cpus(2), cpus(1.5), 1, 1) == (False, 1)
    assert given(cpus(8, 8), cpus(7, 7), 1, None) == (False, 7), "a worker's CPUs are those of one node"
    assert given(cpus(8, 8), cpus(6, 8), 2, None) == (False, 6)
    gpu = [Capacity(cpus=16, gpus=1)]
    assert given(gpu, [Capacity(cpus=15.5, gpus=1)], 1, None) == (True, 15)
    assert given(gpu, [Capacity(cpus=15.5, gpus=1)], 1, 4) == (True, 4)
    with pytest.raises(UserError, match=r"2 workers need 2 CPUs, and something else .* leaves 1\.5 CPUs;"):
        given(cpus(2), cpus(1.5), 2, None)
    with pytest.raises(UserError, match="1 workers need 2 CPUs"):
        given(cpus(2), cpus(1.5), 1, 2)
    with pytest.raises(
        UserError, match=r"1 workers need 1 GPUs and 1 CPUs for each, .* leaves 12 CPUs and 0 GPUs"
    ):
        given(gpu, [Capacity(cpus=12, gpus=0)], 1, None)


def test_a_local_training_has_no_more_actors_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray may give what is left out another name: then it would be back, and wait for the dashboard."""
    from ray.train.torch import TorchTrainer

    from components.train.trainer import Trainer

    def kinds(trainer: TorchTrainer) -> set[str]:
        return {type(one).__name__ for one in trainer._create_default_callbacks()}

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    usual, here = kinds(TorchTrainer(lambda: None)), kinds(Trainer(lambda: None))
    assert usual - here == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    assert usual - kinds(Trainer(lambda: None)) == {"DatasetsCallback"}


def test_a_local_cluster_is_asked_for_no_nodes_and_another_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    from components.train.trainer import Trainer, Unasked

    seen: list[str] = []

    def started(self: TorchTrainer, **arguments: object) -> None:
        seen.append(type(arguments["scaling_policy"]).__name__)

    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", started)
    trainer = Trainer(lambda: None, scaling_config=ScalingConfig(num_workers=2))
    for address in (None, "elsewhere:6379"):
        if address is None:
            monkeypatch.delenv("RAY_ADDRESS", raising=False)
        else:
            monkeypatch.setenv("RAY_ADDRESS", address)
        trainer._initialize_and_run_controller(scaling_policy=object())
    assert seen == ["Unasked", "object"]
    policy = Unasked(ScalingConfig(num_workers=2))
    policy.after_controller_start(None)  # type: ignore[arg-type]
    assert policy.make_decision_for_non_running_worker_group().num_workers == 2


def test_one_worker_has_no_process_group_and_two_have(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train.backend import Backend
    from ray.train.torch import TorchConfig

    from components.train.trainer import Alone

    assert Alone().backend_cls is Backend
    assert TorchConfig().backend_cls is not Backend


@pytest.mark.usefixtures("project")
def test_without_a_ray_it_is_ray_trains_local_mode_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray
    import ray.train.torch

    seen: list[tuple[int, int]] = []
    usual = worker.run_to_outcome

    def watched(plan: Plan, place: Place) -> None:
        seen.append((os.getpid(), torch.get_num_threads()))
        assert ray.train.get_context().get_world_size() == place.world == 1
        usual(plan, place)

    monkeypatch.setattr(worker, "run_to_outcome", watched)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)  # as torchrun does, which would have it wait for a second process
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a Ray was started"))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        trained = train(open_project(), "digits-vae", SMALL)
        assert torch.get_num_threads() == threads + 1, "train.threads is the training's only"
    finally:
        torch.set_num_threads(threads)
    assert seen == [(os.getpid(), 1)]
    assert not logging.getLogger("ray.train.v2").isEnabledFor(logging.INFO), "it would tell of its local mode"
    assert load_run(trained.folder).workers == 0


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        ),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_want_of_memory_is_one_sentence_and_a_bug_is_none(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(plan: Plan, place: Place) -> None:
        raise raised

    monkeypatch.setattr(worker, "run_to_outcome", fails)
    raised: Exception = error
    with pytest.raises(
        FailedError, match=r"The memory does not hold digits-vae-\w+ \(.+\); lower train.batch"
    ):
        train(open_project(), "digits-vae", SMALL, workers=0)
    raised = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(open_project(), "digits-vae", SMALL, workers=0)
