"""Passes over all weights that every step makes: their moving average, and clipping their gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from components.train.distribute import local, part_like


class Average:
    """An exponential moving average of a network's weights and float buffers; other buffers are copied.

    `module` is the averaged network, None where the weights are sharded: then only `values` holds this rank's parts.
    """

    def __init__(self, network: nn.Module, decay: float, sharded: bool = False) -> None:
        self.network, self.decay = network, decay
        self.taken = 0
        """How often the weights were taken, which are the network's own updates: it may rest meanwhile."""
        self.module = None if sharded else _copied(network)
        source = network if self.module is None else self.module
        self.values = {name: value.detach() for name, value in entries(source).items()}
        if sharded:
            self.values = {name: value.clone() for name, value in self.values.items()}
        # walking all modules each step costs more than a small network's update; a buffer may be another each time
        parameters = list(network.parameters())
        averages = list(self.values.values())
        self.old = [local(average) for average in averages[: len(parameters)]]
        self.new = [local(value.detach()) for value in parameters]
        self.buffers = averages[len(parameters) :]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after an update; the decay warms up, so that early weights are forgotten."""
        before = self.taken
        weight = 1.0 if before == 0 else 1.0 - min(self.decay, (1.0 + before) / (10.0 + before))
        self.taken += 1
        old, new = list(self.old), list(self.new)
        for average, value in zip(self.buffers, self.network.buffers() if self.buffers else (), strict=True):
            if average.is_floating_point():
                old.append(local(average))
                new.append(local(value))
            else:
                average.copy_(value)
        torch._foreach_lerp_(old, new, weight)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take whole `values` by name, of which a sharded average keeps this rank's parts."""
        for name, own in self.values.items():
            own.copy_(part_like(own, values[name]))


def _copied(network: nn.Module) -> nn.Module:
    """A network of the same weights that is not trained."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    for part in copied.modules():
        if isinstance(part, nn.RNNBase):  # copied one by one, a GPU would gather its weights in each call
            part.flatten_parameters()
    return copied


def entries(network: nn.Module) -> dict[str, Tensor]:
    """The parameters, each once, then the buffers of a network by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


@torch.no_grad()
def clip(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Scale the gradients so that the norm of all of them together is at most `most`, as torch's own does."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    norm = get_total_norm([value for value in gradients if not isinstance(value, DTensor)])
    if parts := [local(value) for value in gradients if isinstance(value, DTensor)]:
        square = get_total_norm(parts).square()
        dist.all_reduce(square)
        norm = (norm.square() + square).sqrt()
    scale = most / (norm + 1e-6)
    if norm.device.type == "cpu" and scale >= 1.0:
        return  # a pass over all gradients for nothing; a GPU would have to be waited for to know
    torch._foreach_mul_([local(value) for value in gradients], scale.clamp(max=1.0))
