"""Distribution of the losses: two real processes, gloo, every family."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from components.artifact import flatten
from components.families.family import Shape, kind_of, names, select
from components.project import TrainOptions
from components.train.step import advance, build, networks_for
from tests.components.families.rows import batch_of, shapes_of


def shape_of(name: str) -> Shape:
    return shapes_of(name)[0]


def work(rank: int, name: str, port: int, folder: str) -> None:
    """Three steps of one rank; it leaves its weights, and the gradient of a first loss without noise."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    shape = shape_of(name)
    family = kind_of(name)()
    trainee = build(
        family, networks_for(family, shape, seed=rank), TrainOptions(), torch.device("cpu"), world=2
    )
    torch.manual_seed(100 + rank)
    for step in range(3):
        advance(trainee, select(batch_of(shape, 8, step), slice(rank, None, 2)), step)
    torch.save({**flatten(trainee.networks), **flatten(trainee.averages)}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", names())
def test_two_ranks_keep_the_same_weights(name: str, tmp_path: Path) -> None:
    """Ranks begin apart and draw other noise; they stay together only if every gradient is shared."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(work, args=(name, port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    start = flatten(networks_for(kind_of(name)(), shape_of(name), seed=0))
    assert all(torch.equal(first[key], second[key]) for key in start)
    assert all(value.isfinite().all() for value in first.values())
    moved = [key for key in start if not torch.equal(first[key], start[key])]
    assert len(moved) > len(start) / 2


@pytest.mark.parametrize("name", names())
def test_bf16_trains(name: str) -> None:
    shape = shape_of(name)
    family = kind_of(name)()
    options = TrainOptions(precision="bf16")
    trainee = build(family, networks_for(family, shape, seed=0), options, torch.device("cpu"), world=1)
    losses = [advance(trainee, batch_of(shape, 8), step) for step in range(5)]
    assert all(value.isfinite() for logged in losses for value in logged.values())
    assert all(value.dtype == torch.float32 for value in flatten(trainee.networks).values())


def test_frozen_weights_stay_frozen() -> None:
    family = kind_of("gan")()
    networks = networks_for(family, shape_of("gan"), seed=0)
    kept = next(networks["generator"].parameters())
    kept.requires_grad_(False)
    trainee = build(family, networks, TrainOptions(), torch.device("cpu"), world=1)
    before = kept.clone()
    for step in range(3):
        advance(trainee, batch_of(shape_of("gan"), 8, step), step)
    assert not kept.requires_grad
    assert torch.equal(kept, before)
