"""How a served model computes: in which precision, and by code that was compiled for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from components import compiler
from components.artifact import Model
from components.errors import UserError
from components.families.autoregressive import Language
from components.families.layers.prior import Prior
from components.settings import Settings, writable_home
from components.terms import Terms


def prepare(model: Model, terms: Terms, settings: Settings) -> None:
    """Change the networks of `model` as its product's `terms` say; they can generate afterwards, and nothing else.

    What is compiled is so when it is first called. Raises `UserError` where there is no compiler.
    """
    if terms.precision == "bf16":
        for network in model.networks.values():
            shorten(network)
    if terms.compile:
        check(model.about.product, terms)
        compiler.settle(writable_home(settings) / "compiled")
        for network in model.networks.values():
            compiled(network)


def check(product: str, terms: Terms) -> None:
    """Raise `UserError` where a product is to be compiled and there is no compiler."""
    if terms.compile and not compiler.found():
        raise UserError(
            f"The product {product} is compiled for serving, which needs a C++ compiler, and none was "
            "found; install g++, name one in CXX, or set its compile to false."
        )


def compiled(network: nn.Module) -> None:
    """Compile what the sampler calls in every step, for the engine's fixed number of rows."""
    stepping = [part for part in network.modules() if isinstance(part, Language | Prior)]
    for part in stepping:
        # each version has a count of its own: a replica that has seen many would go on without compiling
        step: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]
            part.step, dynamic=False, isolate_recompiles=True
        )
        part.step = compiler.settled(step)  # type: ignore[method-assign]
    if not stepping:
        forward: Callable[..., Tensor] = torch.compile(  # type: ignore[call-overload]
            network.forward, dynamic=False, isolate_recompiles=True
        )
        network.forward = compiler.settled(forward)


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
