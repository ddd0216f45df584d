"""One training step of any family: each due network's loss, gradients, clipping, update; then the averages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from components.families.family import Batch, Family, Losses, Networks, Shape
from components.project import TrainOptions


class Loss(nn.Module):
    """One name's loss as a module whose only parameters are that network's: what DDP wraps.

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
    """All that training changes: networks, optimizers and averages, by name; `losses` are what is called."""

    family: Family
    networks: dict[str, nn.Module]
    losses: dict[str, nn.Module]
    optimizers: dict[str, list[Optimizer]]
    averages: dict[str, AveragedModel]
    options: TrainOptions
    device: torch.device
    world: int

    @property
    def sampled(self) -> dict[str, nn.Module]:
        """The networks that a person sees: the averages where there are any."""
        return {name: average.module for name, average in self.averages.items()} or self.networks


def build(
    family: Family,
    networks: dict[str, nn.Module],
    options: TrainOptions,
    device: torch.device,
    world: int,
) -> Trainee:
    """Optimizers, averages and, for more than one worker, the distribution of each loss."""
    for network in networks.values():
        network.to(device).train()
    losses: dict[str, nn.Module] = {name: Loss(family, name, networks) for name in networks}
    if world > 1:
        devices = [device.index] if device.type == "cuda" else None
        losses = {
            name: DistributedDataParallel(
                loss, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )
            for name, loss in losses.items()
        }
    return Trainee(
        family=family,
        networks=networks,
        losses=losses,
        optimizers={name: family.optimizers(name, network) for name, network in networks.items()},
        averages={name: averaged(network, options.ema) for name, network in networks.items()}
        if options.ema
        else {},
        options=options,
        device=device,
        world=world,
    )


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of `network` whose decay warms up, so that early weights are forgotten."""

    def update(averages: Any, current: Any, count: Any) -> None:
        if not averages[0].is_floating_point():
            for old, new in zip(averages, current, strict=True):
                old.copy_(new)
            return
        steps = float(count)
        torch._foreach_lerp_(averages, current, 1.0 - min(decay, (1.0 + steps) / (10.0 + steps)))

    average = AveragedModel(network, multi_avg_fn=torch.no_grad()(update), use_buffers=True)
    average.eval().requires_grad_(False)
    return average


def advance(trainee: Trainee, batch: Batch, step: int) -> dict[str, Tensor]:
    """One step on `batch`: returns the losses, detached, as `loss/NAME`, and what the family logs."""
    logged: dict[str, Tensor] = {}
    for name in trainee.networks:
        if trainee.family.due(name, step):
            logged |= _update(trainee, name, batch, step)
    if trainee.world > 1:
        _average_buffers(trainee)
    for name, average in trainee.averages.items():
        average.update_parameters(trainee.networks[name])
    return logged


def _update(trainee: Trainee, name: str, batch: Batch, step: int) -> dict[str, Tensor]:
    network, options = trainee.networks[name], trainee.options
    bf16 = options.precision == "bf16"
    for optimizer in trainee.optimizers[name]:
        optimizer.zero_grad(set_to_none=True)
    with _only(trainee.networks, name):
        with torch.autocast(trainee.device.type, torch.bfloat16, enabled=bf16):
            loss, extra = trainee.losses[name](batch, step)
        loss.backward()
    if options.clip:
        nn.utils.clip_grad_norm_(network.parameters(), options.clip)
    for optimizer in trainee.optimizers[name]:
        optimizer.step()
    return {f"loss/{name}": loss.detach(), **{key: value.detach() for key, value in extra.items()}}


@contextmanager
def _only(networks: Networks, name: str) -> Iterator[None]:
    """Only `name` collects gradients meanwhile; they still flow through the others to their inputs."""
    others = [network for key, network in networks.items() if key != name]
    frozen = [weight for network in others for weight in network.parameters() if weight.requires_grad]
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
