"""More than one worker: each loss under DDP or sharded by FSDP2, and whole weights back from the shards."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer


def replicate(loss: nn.Module, device: torch.device) -> DistributedDataParallel:
    """`loss` with whole weights on every rank and gradients averaged over the ranks."""
    devices = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(
        loss, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def shard(loss: nn.Module, device: torch.device, world: int) -> nn.Module:
    """`loss` with weights, gradients and optimizer states shared out over the ranks, in place.

    Whoever calls the loss gathers the weights; the elements of a `ModuleList`, which are repeated blocks that
    are called whole, gather theirs only while they compute. Ranks begin with rank 0's weights, as under DDP.
    FSDP2 does not take scalars: they stay whole, and `average_whole` averages their gradients.
    """
    for value in [*loss.parameters(), *loss.buffers()]:
        dist.broadcast(value.data, 0)
    mesh = init_device_mesh(device.type, (world,))
    scalars = {value for value in loss.parameters() if value.ndim == 0}
    for module in list(loss.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                nested = isinstance(
                    block, nn.ModuleList
                )  # is never called; its own elements come in their turn
                if not nested and any(True for _ in block.parameters()):
                    fully_shard(block, mesh=mesh, ignored_params=scalars)
    fully_shard(loss, mesh=mesh, ignored_params=scalars)
    return loss


def average_whole(network: nn.Module, world: int) -> None:
    """Average the gradients of the weights that FSDP2 left whole."""
    for value in network.parameters():
        if not isinstance(value, DTensor) and value.grad is not None:
            dist.all_reduce(value.grad)
            value.grad.div_(world)


def set_apart(optimizer: Optimizer) -> None:
    """Give scalars, which are never sharded, groups of their own: fused updates take no mixture.

    It is done for every way of distribution, so that a run can go on under another one.
    """
    for group in list(optimizer.param_groups):
        scalars = [value for value in group["params"] if value.ndim == 0]
        if scalars and len(scalars) < len(group["params"]):
            group["params"] = [value for value in group["params"] if value.ndim > 0]
            optimizer.add_param_group({**group, "params": scalars})


def unsynchronized(loss: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Backward passes in which DDP only adds up gradients; FSDP2 shares them each time, to keep them sharded."""
    if isinstance(loss, DistributedDataParallel):
        return _without_sync(loss)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _without_sync(loss: DistributedDataParallel) -> Iterator[None]:
    with loss.no_sync():
        yield


def local(value: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; any other as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def whole(value: Tensor) -> Tensor:
    """All of a sharded tensor, on every rank, which all have to call; any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def skeleton(network: nn.Module) -> nn.Module:
    """A copy of `network` for evaluation whose parameters have shapes only, to be filled from shards."""
    empty = copy.deepcopy(network)
    for module in empty.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(value.to("meta"), requires_grad=False))
    return empty.eval()


def assemble(empty: nn.Module, network: nn.Module, values: Mapping[str, Tensor]) -> nn.Module:
    """A whole network on the CPU out of its shards; `values` replace the network's own by name."""
    state = {name: whole(values.get(name, value)).cpu() for name, value in network.state_dict().items()}
    result = copy.deepcopy(empty)
    result.load_state_dict(state, assign=True)
    return result


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Take this rank's parts of whole `weights` into a network, in place."""
    own = network.state_dict()
    network.load_state_dict({name: part_like(own[name], value) for name, value in weights.items()})


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer with whole tensors, the same for every way of distribution."""
    content = optimizer.state_dict()
    content["state"] = {
        index: {
            name: whole(value).cpu() if isinstance(value, DTensor) else value for name, value in state.items()
        }
        for index, state in content["state"].items()
    }
    return content


def load_optimizer(optimizer: Optimizer, content: dict[str, Any]) -> None:
    """Load what `optimizer_state` gave, sharded as the optimizer's parameters are, and laid out in memory as they are.

    Kernels of convolutions have their channels last on a GPU, and fused updates walk through memory as it lies.
    """
    optimizer.load_state_dict(content)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = laid_like(parameter, part_like(parameter, value))


def laid_like(own: Tensor, value: Tensor) -> Tensor:
    """`value` with the strides of `own`, if it is not sharded."""
    if isinstance(own, DTensor) or value.stride() == own.stride():
        return value
    return torch.empty_like(own.detach(), dtype=value.dtype).copy_(value)


def part_like(own: Tensor, value: Tensor) -> Tensor:
    """`value`, sharded as `own` is."""
    if not isinstance(own, DTensor) or isinstance(value, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
