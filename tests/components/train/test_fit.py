from __future__ import annotations

import os

import pytest

from components.cluster import Capacity
from components.errors import UserError
from components.train import fit
from components.train.fit import check_workers, share


def test_more_workers_than_cores_are_refused_before_anything_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cores = os.cpu_count() or 1
    check_workers(0, None)
    check_workers(cores, None)
    with pytest.raises(
        UserError, match=rf"{cores + 1} workers × 1 CPU each = {cores + 1} CPUs, and there are {cores};"
    ):
        check_workers(cores + 1, None)
    with pytest.raises(UserError, match=f"1 workers × {cores + 1} CPU each"):
        check_workers(1, cores + 1)


def test_another_cluster_is_asked_for_its_cores_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    check_workers(10_000, None)


def cpus(*each: float) -> list[Capacity]:
    return [Capacity(cpus=have, gpus=0) for have in each]


def test_workers_share_the_cores_or_have_a_gpu_each() -> None:
    assert share(3, None, cpus(8)) == (False, 2)
    assert share(2, 3, cpus(8)) == (False, 3)
    assert share(2, None, [Capacity(cpus=16, gpus=4)]) == (True, 4)
    assert share(3, None, [Capacity(cpus=16, gpus=2), Capacity(cpus=4, gpus=1), *cpus(1)]) == (True, 4)
    with pytest.raises(UserError, match=r"5 workers need 5 GPUs, one each, and there are 4; .* --workers 4"):
        share(5, None, [Capacity(cpus=16, gpus=4)])


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
    monkeypatch.setattr("components.cluster.free_cpus", lambda: 1.5)
    assert fit._within_free(1, None, 2) == 1
    assert fit._within_free(1, 1, 1) == 1
    with pytest.raises(UserError, match=r"2 workers need 2 CPUs, and something else .* holds all but 1\.5;"):
        fit._within_free(2, None, 1)
    with pytest.raises(UserError, match="1 workers need 2 CPUs"):
        fit._within_free(1, 2, 2)
