"""One training step of any family: each due network's loss, gradients, clipping, update; then the averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from components.families.family import Batch, Family, Losses, Networks, Shape, select
from components.families.layers.product import hasten
from components.project import TrainOptions
from components.train import schedule
from components.train.averages import Average, clip
from components.train.distribute import (
    assemble,
    average_whole,
    replicate,
    set_apart,
    shard,
    skeleton,
    unsynchronized,
)


class Loss(nn.Module):
    """One name's loss as a module whose only parameters are that network's: what DDP and FSDP2 wrap.

    So a loss may call its networks often, by any method, and take gradients of their inputs.
    """

    def __init__(self, family: Family, name: str, networks: Networks) -> None:
        super().__init__()
        self.family, self.name = family, name
        self.own = networks[name]
        # a plain mapping is not registered, so the other networks' parameters stay out
        self.networks = dict(networks)

    def forward(self, batch: Batch, step: int) -> Losses:
        """The family's loss of this name."""
        return self.family.loss(self.name, self.networks, batch, step)


@dataclass
class Trainee:
    """All that training changes: networks, optimizers and averages, by name; `losses` are what is called.

    `parameters` are the networks' own, listed once: walking all modules each step costs a small network a hundredth.
    `empty` holds a copy of each network without weights where these are sharded over the ranks.
    """

    family: Family
    networks: dict[str, nn.Module]
    losses: dict[str, nn.Module]
    optimizers: dict[str, list[Optimizer]]
    averages: dict[str, Average]
    parameters: dict[str, list[nn.Parameter]]
    empty: dict[str, nn.Module]
    options: TrainOptions
    device: torch.device
    world: int

    @property
    def sampled(self) -> dict[str, nn.Module]:
        """The networks that a person sees: the averages where there are any. All ranks call it."""
        if not self.empty:
            modules = {name: average.module for name, average in self.averages.items() if average.module}
            return modules or self.networks
        averages = {name: average.values for name, average in self.averages.items()}
        return {
            name: assemble(self.empty[name], network, averages.get(name, {}))
            for name, network in self.networks.items()
        }


def build(
    family: Family,
    networks: dict[str, nn.Module],
    options: TrainOptions,
    device: torch.device,
    world: int,
) -> Trainee:
    """Optimizers, averages and, for more than one worker, the distribution of each loss."""
    for network in networks.values():
        place(network, device).train()
        hasten(network)
    losses: dict[str, nn.Module] = {name: Loss(family, name, networks) for name in networks}
    if options.compile:
        for loss in losses.values():
            loss.compile()
    sharded = world > 1 and options.distribute == "fsdp2"
    empty = {name: skeleton(network) for name, network in networks.items()} if sharded else {}
    if sharded:
        losses = {name: shard(loss, device, world) for name, loss in losses.items()}
    elif world > 1:
        losses = {name: replicate(loss, device) for name, loss in losses.items()}
    decay = options.ema
    trainee = Trainee(
        family=family,
        networks=networks,
        losses=losses,
        optimizers={name: family.optimizers(name, network) for name, network in networks.items()},
        averages={name: Average(network, decay, sharded) for name, network in networks.items()}
        if decay
        else {},
        parameters={name: list(network.parameters()) for name, network in networks.items()},
        empty=empty,
        options=options,
        device=device,
        world=world,
    )
    for optimizers in trainee.optimizers.values():
        for optimizer in optimizers:
            set_apart(optimizer)
        schedule.remember(optimizers)
    return trainee


def place(network: nn.Module, device: torch.device, last: bool | None = None) -> nn.Module:
    """`network` on `device`, with channels last (by default on a GPU, whose convolutions are faster so)."""
    network.to(device)
    if device.type == "cuda" if last is None else last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch declares too little
    return network


def advance(trainee: Trainee, batch: Batch, step: int) -> dict[str, Tensor]:
    """One step on `batch`: returns the losses, detached, as `loss/NAME`, and what the family logs."""
    logged: dict[str, Tensor] = {}
    parts = split(batch, trainee.options.accumulate)
    weights = shares(parts, trainee.world)
    due = [name for name in trainee.networks if trainee.family.due(name, step)]
    for name in due:
        logged |= _update(trainee, name, parts, weights, step)
    if trainee.world > 1:
        _average_buffers(trainee)
    for name in due:  # what rests is what it was
        if name in trainee.averages:
            trainee.averages[name].update()
    return logged


def split(batch: Batch, count: int) -> list[Batch]:
    """`batch` in `count` parts in its order, as even as they can be."""
    if count == 1:
        return [batch]
    ends = [len(batch) * number // count for number in range(count + 1)]
    return [select(batch, slice(begin, end)) for begin, end in pairwise(ends)]


def predicted(batch: Batch) -> Tensor:
    """How many tokens the rows of `batch` have that are predicted, int64 []; 0 where the data are no tokens."""
    if batch.data.is_floating_point():
        return torch.zeros((), dtype=torch.int64, device=batch.data.device)
    given = 1 if batch.given is None else batch.given
    return (batch.length - given).clamp(min=0).sum().long()


def shares(parts: list[Batch], world: int) -> list[Tensor | float]:
    """What to weigh each part's mean loss by, so that the mean over the ranks is that of one whole batch.

    A loss is a mean over rows, of which each rank has as many; of tokens it is a mean over predicted tokens,
    of which ranks have different numbers.
    """
    if parts[0].data.is_floating_point():
        rows = sum(len(part) for part in parts)
        return [len(part) / rows for part in parts]
    if world == 1 and len(parts) == 1:
        return [1.0]
    counts = torch.stack([predicted(part) for part in parts])
    total = counts.sum()
    if world > 1:
        dist.all_reduce(total)
    return list((counts * world / total.clamp(min=1)).float().unbind())


def _update(
    trainee: Trainee, name: str, parts: list[Batch], weights: list[Tensor | float], step: int
) -> dict[str, Tensor]:
    options, logged = trainee.options, dict[str, Tensor]()
    for optimizer in trainee.optimizers[name]:
        optimizer.zero_grad(set_to_none=True)
    with _only(trainee.parameters, name):
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True), start=1):
            last = number == len(parts)
            with nullcontext() if last else unsynchronized(trainee.losses[name]):
                for key, value in _backward(trainee, name, part, weight, step).items():
                    logged[key] = logged[key] + value if key in logged else value
    if trainee.empty:
        average_whole(trainee.networks[name], trainee.world)
    if options.clip:
        clip(trainee.parameters[name], options.clip)
    schedule.apply(trainee.optimizers[name], schedule.factor(options, step))
    for optimizer in trainee.optimizers[name]:
        optimizer.step()
    return logged


def _backward(
    trainee: Trainee, name: str, part: Batch, weight: Tensor | float, step: int
) -> dict[str, Tensor]:
    """Add the gradients of one part of the batch, and return its weighted share of what is logged."""
    bf16 = trainee.options.precision == "bf16"
    with torch.autocast(trainee.device.type, torch.bfloat16, enabled=bf16):
        loss, extra = trainee.losses[name](part, step)
    loss = loss * weight
    loss.backward()
    logged = {key: value.detach() * weight for key, value in extra.items()}
    return {f"loss/{name}": loss.detach(), **logged}


@contextmanager
def _only(parameters: Mapping[str, Iterable[nn.Parameter]], name: str) -> Iterator[None]:
    """Only `name` collects gradients meanwhile; they still flow through the others to their inputs."""
    others = [own for key, own in parameters.items() if key != name]
    frozen = [weight for own in others for weight in own if weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(True)


def _average_buffers(trainee: Trainee) -> None:
    """Float buffers (batch norm's statistics) become their mean over the ranks."""
    for network in trainee.networks.values():
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(trainee.world)


def networks_for(family: Family, shape: Shape, seed: int) -> dict[str, nn.Module]:
    """Freshly initialised networks, the same for the same seed."""
    torch.manual_seed(seed)
    return family.networks(shape)
