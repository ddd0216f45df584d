"""Distribution of the losses: two real processes, gloo, every family."""

from __future__ import annotations

import math
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.optim import Optimizer

from components.artifact import flatten
from components.data.dataset import Position
from components.families.family import (
    Batch,
    Family,
    Kind,
    Losses,
    Networks,
    Requests,
    Shape,
    State,
    Task,
    kind_of,
    names,
    select,
)
from components.project import TrainOptions
from components.train import checkpoint
from components.train.step import Trainee, advance, build, networks_for, place
from tests.components.families.rows import batch_of, shapes_of

IMAGES = Shape(data=(1, 8, 8))


def shape_of(name: str) -> Shape:
    return shapes_of(name)[0]


@dataclass(frozen=True, kw_only=True)
class Tokens(Family):
    """One logit for each token: the smallest family whose loss is a mean over predicted tokens."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.TOKENS})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"unigram": nn.Embedding(1, shape.vocabulary)}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        return [torch.optim.SGD(network.parameters(), lr=1.0)]

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        logits = networks[name](torch.zeros(batch.data.shape, dtype=torch.int64))
        places = torch.arange(batch.data.shape[1])
        given = 1 if batch.given is None else batch.given[:, None]
        counted = (places >= given) & (places < batch.length[:, None])
        return nn.functional.cross_entropy(logits[counted], batch.data[counted]), {}

    def start(self, networks: Networks, requests: Requests) -> State:
        raise NotImplementedError

    def advance(self, networks: Networks, state: State) -> State:
        raise NotImplementedError


def tokens() -> Batch:
    """Eight rows of six tokens out of five, of different lengths, some with context."""
    generator = torch.Generator().manual_seed(0)
    return Batch(
        data=torch.randint(5, (8, 6), generator=generator),
        length=torch.tensor([6, 3, 6, 2, 5, 4, 6, 3]),
        given=torch.tensor([1, 1, 4, 1, 1, 2, 1, 1]),
    )


def after_one_step(family: Family, shape: Shape, batch: Batch, **settings: object) -> dict[str, torch.Tensor]:
    """What is logged and the weights after a step in this process."""
    options = TrainOptions.model_validate({"clip": 0, **settings})
    trainee = build(family, networks_for(family, shape, 0), options, torch.device("cpu"), 1)
    torch.manual_seed(7)
    return {**advance(trainee, batch, 0), **flatten(trainee.networks)}


def test_accumulation_of_rows_equals_one_batch() -> None:
    """Parts of 16 rows take torch's normal numbers in the order in which the whole batch takes them."""
    family, shape = kind_of("vae")(width=32), IMAGES
    data = torch.rand(64, *shape.data, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(data=data, length=torch.ones(64))
    # a rate this small keeps Adam's sign-like first step from magnifying rounding
    whole, parts = (
        after_one_step(replace(family, lr=1e-6), shape, batch, accumulate=count) for count in (1, 4)
    )
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_accumulation_of_tokens_is_the_mean_over_predicted_tokens(count: int) -> None:
    shape = Shape(data=(6,), vocabulary=5)
    whole = after_one_step(Tokens(), shape, tokens())
    parts = after_one_step(Tokens(), shape, tokens(), accumulate=count)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.long
def test_a_compiled_loss_trains_like_the_plain_one_and_repeats_its_noise() -> None:
    """Compiling three graphs takes up to two minutes of the C++ compiler.

    A compiled loss draws its noise from another stream, so the two are compared on a loss without noise.
    """
    shape = IMAGES
    for precision, tolerance in (("fp32", 1e-5), ("bf16", 1e-2)):
        plain, compiled = (
            after_one_step(Blocks(), shape, batch_of(shape, 8), compile=way, precision=precision)
            for way in (False, True)
        )
        for key, value in plain.items():
            torch.testing.assert_close(compiled[key], value, rtol=tolerance, atol=tolerance)
    noisy = [
        after_one_step(kind_of("vae")(width=32), shape, batch_of(shape, 8), compile=True) for _ in range(2)
    ]
    assert all(torch.equal(noisy[0][key], noisy[1][key]) for key in noisy[0])


def leave() -> None:
    """End this rank, which has written what it found, without gloo's own end: that may wait for ever."""
    dist.barrier()
    os._exit(0)


def work(rank: int, port: int, folder: str) -> None:
    """Five steps of one rank for each family; it leaves the weights and their averages."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name in names():
        print(f"rank {rank} trains {name}", flush=True)
        shape = shape_of(name)
        family = kind_of(name)()
        trainee = build(
            family, networks_for(family, shape, seed=rank), TrainOptions(), torch.device("cpu"), world=2
        )
        torch.manual_seed(100 + rank)
        for step in range(5):  # by then every network was due
            advance(trainee, select(batch_of(shape, 8, step), slice(rank, None, 2)), step)
        averages = {f"average.{key}": value for key, value in flatten(trainee.sampled).items()}
        torch.save({**flatten(trainee.networks), **averages}, f"{folder}/{name}-{rank}.pt")
    leave()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave of every family; to start them takes longer than a family's steps."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, args=(free_port(), str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("name", names())
def test_two_ranks_keep_the_same_weights(name: str, ranks: Path) -> None:
    """Ranks begin apart and draw other noise; they stay together only if every gradient is shared."""
    first, second = (torch.load(ranks / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    start = flatten(networks_for(kind_of(name)(), shape_of(name), seed=0))
    assert all(torch.equal(first[key], second[key]) for key in start)
    assert all(value.isfinite().all() for value in first.values())
    moved = [key for key in start if not torch.equal(first[key], start[key])]
    assert len(moved) > len(start) / 2


WAYS: dict[str, dict[str, object]] = {
    "ddp": {"distribute": "ddp"},
    "parts": {"distribute": "ddp", "accumulate": 2},
    "fsdp2": {"distribute": "fsdp2"},
    "fsdp2-parts": {"distribute": "fsdp2", "accumulate": 2},
}
"""Ways of distribution that all have to give the same weights."""


def distribute(rank: int, port: int, folder: str) -> None:
    """One rank takes four steps in each of the `WAYS`, changes to the other way, and takes two more."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for way, settings in WAYS.items():
        other = {**settings, "distribute": "fsdp2" if settings["distribute"] == "ddp" else "ddp"}
        home = Path(folder) / way
        trainee = blocks(rank, settings)
        few(trainee, rank, range(4))
        assert checkpoint.finite(trainee)
        checkpoint.save(home, trainee, 4, Position(64), rank)
        seen = {key: value.clone() for key, value in flatten(trainee.sampled).items()}
        few(trainee, rank, range(4, 6))
        after = flatten(trainee.sampled)
        resumed = blocks(rank, other)
        assert checkpoint.restore(home, resumed, rank) == checkpoint.Resumed(4, Position(64))
        assert all(torch.equal(value, seen[key]) for key, value in flatten(resumed.sampled).items())
        few(resumed, rank, range(4, 6))
        for key, value in flatten(resumed.sampled).items():
            torch.testing.assert_close(value, after[key], rtol=0, atol=1e-5)
        if rank == 0:
            torch.save(after, home / "weights.pt")
    torch.save(unequal_tokens(rank), f"{folder}/tokens-{rank}.pt")
    leave()


def blocks(rank: int, settings: dict[str, object]) -> Trainee:
    """A network with blocks in a `ModuleList` and widths that two ranks do not share evenly."""
    family = Blocks(lr=1e-3)
    options = TrainOptions.model_validate(
        {"clip": 0.05, "schedule": "wsd", "steps": 6, "warmup": 2, **settings}
    )
    networks = networks_for(family, IMAGES, seed=rank)
    return build(family, networks, options, torch.device("cpu"), world=2)


def few(trainee: Trainee, rank: int, steps: range) -> None:
    for step in steps:
        whole = batch_of(IMAGES, 8, step)
        advance(trainee, Batch(data=whole.data[rank::2], length=whole.length[rank::2]), step)


def unequal_tokens(rank: int) -> dict[str, torch.Tensor]:
    """The weights after a step on rows of which the ranks predict different numbers of tokens."""
    shape = Shape(data=(6,), vocabulary=5)
    trainee = build(
        Tokens(), networks_for(Tokens(), shape, 0), TrainOptions(clip=0), torch.device("cpu"), world=2
    )
    batch = tokens()
    assert batch.given is not None
    logged = advance(
        trainee, Batch(data=batch.data[rank::2], length=batch.length[rank::2], given=batch.given[rank::2]), 0
    )
    return {**logged, **flatten(trainee.networks)}


class Stack(nn.Module):
    """Residual blocks, in lists of lists as a U-Net has them; a float buffer that training changes, and a scalar."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(size, width)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(width, width)]) for _ in range(2)])
        self.outer = nn.Linear(width, size)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("seen", torch.zeros(3))

    def reconstruct(self, data: torch.Tensor) -> torch.Tensor:
        """Not called `forward`: a loss may call a network by any method."""
        hidden = self.inner(data.flatten(1))
        for block in self.blocks:
            hidden = hidden + block[0](hidden).tanh()
        self.get_buffer("seen").add_(data.detach().mean())
        restored: torch.Tensor = self.outer(hidden) * self.scale
        return restored.view_as(data)


@dataclass(frozen=True, kw_only=True)
class Blocks(Tokens):
    """An autoencoder of `Stack` whose loss draws no noise, so that all ways of training it can be compared."""

    width: int = 33
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"stack": Stack(math.prod(shape.data), self.width)}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        matrices = [value for value in network.parameters() if value.ndim == 2]
        others = [value for value in network.parameters() if value.ndim != 2]
        return [
            torch.optim.AdamW(others, lr=self.lr, fused=True),
            torch.optim.SGD(matrices, lr=0.1, momentum=0.9),
        ]

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        stack = networks[name]
        assert isinstance(stack, Stack)
        return (stack.reconstruct(batch.data) - batch.data).square().mean(), {}


def test_every_way_of_distribution_gives_the_same_weights_and_takes_the_others_checkpoints(
    tmp_path: Path,
) -> None:
    multiprocessing.spawn(distribute, args=(free_port(), str(tmp_path)), nprocs=2)
    whole = torch.load(tmp_path / "ddp" / "weights.pt", weights_only=True)
    start = flatten(blocks_of(0))
    assert all(not torch.equal(whole[key], start[key]) for key in start)
    for way in WAYS:
        found = torch.load(tmp_path / way / "weights.pt", weights_only=True)
        for key, value in whole.items():
            if "parts" not in way or key != "stack.seen":  # a buffer sees each part, as batch norm's does
                torch.testing.assert_close(found[key], value, rtol=0, atol=1e-5)
    alone = after_one_step(Tokens(), Shape(data=(6,), vocabulary=5), tokens())
    ranks = [torch.load(tmp_path / f"tokens-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for key, value in alone.items():
        shared = torch.stack([found[key] for found in ranks]).mean(0)
        torch.testing.assert_close(shared, value, rtol=1e-6, atol=1e-6)


def blocks_of(seed: int) -> dict[str, nn.Module]:
    return networks_for(Blocks(), IMAGES, seed)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("name", names())
def test_bf16_trains(name: str) -> None:
    shape = shape_of(name)
    family = kind_of(name)()
    options = TrainOptions(precision="bf16")
    trainee = build(family, networks_for(family, shape, seed=0), options, torch.device("cpu"), world=1)
    losses = [advance(trainee, batch_of(shape, 8), step) for step in range(5)]
    assert all(value.isfinite() for logged in losses for value in logged.values())
    weights = [value for value in flatten(trainee.networks).values() if value.is_floating_point()]
    assert all(value.dtype == torch.float32 for value in weights)


@pytest.mark.parametrize("name", names())
def test_channels_may_lie_last(name: str) -> None:
    # Muon would magnify what rounding the codes of vqvae bring to its prior, which has no kernels to lay out
    settings = {"optimizer": "adamw"} if name == "vqvae" else {}
    shape, family = shape_of(name), kind_of(name)(**settings)
    trainees = []
    for last in (False, True):
        networks = networks_for(family, shape, seed=0)
        for network in networks.values():
            place(network, torch.device("cpu"), last)
        trainees.append(build(family, networks, TrainOptions(), torch.device("cpu"), world=1))
    for trainee in trainees:
        torch.manual_seed(1)
        logged = advance(trainee, batch_of(shape, 8), 0)
        assert all(value.isfinite() for value in logged.values())
    plain, last = (flatten(trainee.networks) for trainee in trainees)
    for key, value in plain.items():
        torch.testing.assert_close(last[key], value, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize("before", [False, True])
def test_a_checkpoint_of_another_layout_goes_on(before: bool, tmp_path: Path) -> None:
    """As one of a GPU on a CPU: a fused update walks through memory as it lies."""
    shape, family = shapes_of("dcgan")[-1], kind_of("dcgan")()

    def one(last: bool) -> Trainee:
        networks = networks_for(family, shape, seed=0)
        for network in networks.values():
            place(network, torch.device("cpu"), last)
        return build(family, networks, TrainOptions(), torch.device("cpu"), world=1)

    begun = one(before)
    advance(begun, batch_of(shape, 8), 0)
    checkpoint.save(tmp_path, begun, 1, Position(8), 0)
    ended = []
    for last in (before, not before):
        again = one(last)
        checkpoint.restore(tmp_path, again, 0)
        advance(again, batch_of(shape, 8), 1)
        ended.append(flatten(again.networks))
    for key, value in ended[0].items():
        torch.testing.assert_close(ended[1][key], value, rtol=1e-3, atol=1e-5)


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
