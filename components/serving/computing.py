"""How a served model computes: in which precision, and by code that was compiled for it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn

from components import accelerator, compiler
from components.accelerator import Device
from components.artifact import Model
from components.errors import UserError
from components.families.autoregressive import Language
from components.families.family import select, tensors
from components.families.layers.packed import pack
from components.families.layers.prior import Prior
from components.families.sampling import Slots, device_of
from components.settings import Settings, writable_home
from components.terms import Terms

log = logging.getLogger(__name__)
SHARE = 0.5
"""The share of free memory that the rows of one model may take."""


def prepare(model: Model, terms: Terms, settings: Settings, packed: bool = True) -> None:
    """Change the networks of `model` as its product's `terms` say; they can generate afterwards, and nothing else.

    What is compiled is so when it is first called, for the device of the networks. Raises `UserError` where there is no
    compiler. Only on the usual terms the model may be packed; what is shortened and not compiled is `packed` here.
    """
    assert terms.usual or not model.packed, "what is packed is neither shortened nor compiled"
    if terms.precision == "bf16":
        for network in model.networks.values():
            shorten(network)
            if packed and not terms.compile:  # which lays the weights itself
                pack(network)
    if terms.compile:
        device = accelerator.kind(device_of(model.networks))
        check(model.about.product, terms, device)
        compiler.settle(writable_home(settings) / "compiled")
        for network in model.networks.values():
            compiled(network, device)


def rows(model: Model, terms: Terms) -> int:
    """How many rows are computed at a time: as many as the terms say, else the model's, or what memory has room for."""
    if terms.rows:
        return terms.rows
    found = max(1, int(SHARE * _free(device_of(model.networks)) / _row_bytes(model)))
    if found < model.width:
        log.warning("memory has room for %d rows of %s, not %d", found, model.about.product, model.width)
    return min(model.width, found)


def _free(device: torch.device) -> int:
    """The bytes of the device's memory that are free for new things, with those that torch keeps for its next ones."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return int(psutil.virtual_memory().available)


def _row_bytes(model: Model) -> int:
    """What a row keeps in memory, measured on one, such as a text's whole cache."""
    body = model.modality.warm(model.shape)
    order = model.modality.order(body, model.maker, list(range(model.modality.answers(body))))
    slots = Slots(model.family, model.networks, 1, select(order.requests, slice(0, 1)))
    return max(1, sum(value.nbytes for value in tensors(slots.state).values()))


def check(product: str, terms: Terms, device: Device = "cpu") -> None:
    """Raise `UserError` where a product is to be compiled and there is no compiler, or for a GPU no Triton."""
    if terms.compile and device == "cuda" and not compiler.writes_kernels():
        raise UserError(
            f"The product {product} is compiled for serving on a GPU, which needs Triton, and there is none; "
            "install triton, or set its compile to false."
        )
    if terms.compile and not compiler.found():
        raise UserError(
            f"The product {product} is compiled for serving, which needs a C++ compiler, and none was "
            "found; install g++, name one in CXX, or set its compile to false."
        )


def compiled(network: nn.Module, device: Device) -> None:
    """Compile what the sampler calls in every step, for the engine's fixed number of rows."""
    native = device == "cpu"
    stepping = [part for part in network.modules() if isinstance(part, Language | Prior)]
    for part in stepping:
        # each version has a count of its own: a replica that has seen many would go on without compiling
        step: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]
            part.step, dynamic=False, isolate_recompiles=True
        )
        part.step = compiler.settled(step, native)  # type: ignore[method-assign]
    if not stepping:
        forward: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]
            network.forward, dynamic=False, isolate_recompiles=True
        )
        network.forward = compiler.settled(forward, native)


class Short(nn.Module):
    """A layer whose weights and products are in bfloat16, and what comes in and goes out as it was."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.to(torch.bfloat16)

    def forward(self, inputs: Tensor) -> Tensor:
        """As the layer."""
        output: Tensor = self.layer(inputs.to(torch.bfloat16))
        return output.to(inputs.dtype)


def shorten(network: nn.Module) -> None:
    """Compute linear layers and convolutions of `network` in bfloat16; sums, norms and attention stay as they are."""
    for name, part in list(network.named_children()):
        if type(part) in (nn.Linear, nn.Conv2d):
            setattr(network, name, Short(part))
        else:
            shorten(part)
