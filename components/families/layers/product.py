"""Products of linear layers that learn on a CPU, by oneDNN where torch's own library has no kernels for the processor.

torch multiplies single-precision matrices by MKL, which gives an AMD processor less than half of what it can do.
oneDNN, which lies in torch as well, asks what a processor can do and not who made it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from components.families.layers.onednn import maker, there

LEAST = 2**23
"""Multiplications of one product from which this is faster: the call itself costs some 30 µs more."""


@cache
def wanted() -> bool:
    """Whether oneDNN is there and the processor one of AMD's."""
    return there() and maker() == "AuthenticAMD"


def linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[…, inputs] → […, outputs] as `torch.nn.functional.linear`, by oneDNN where something learns and it is faster.

    What is compiled takes the products that its compiler knows.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling() and wanted() and _pays(inputs, weight):
        return _product(inputs, weight, bias)
    return nn.functional.linear(inputs, weight, bias)


def _pays(inputs: Tensor, weight: Tensor) -> bool:
    """Whether it is a large product of single precision on a CPU; under autocast torch takes oneDNN itself."""
    plain = inputs.dtype is torch.float32 and weight.dtype is torch.float32
    large = inputs.numel() * weight.shape[0] >= LEAST
    return large and plain and inputs.is_cpu and not torch.is_autocast_enabled("cpu")


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product: Tensor = _Product.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return product


class _Product(torch.autograd.Function):
    """x Wᵀ + b; the gradients are products of the same kind, so that they have gradients as well."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], _: Tensor) -> None:
        given, weight, _bias = inputs
        wants_inputs, wants_weight, _ = ctx.needs_input_grad
        ctx.shape = given.shape
        ctx.save_for_backward(given if wants_weight else None, weight if wants_inputs else None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        given, weight = ctx.saved_tensors
        above = gradients[0].reshape(-1, gradients[0].shape[-1])
        return (
            None if weight is None else _product(above, weight.t()).view(ctx.shape),
            None if given is None else _product(above.t(), given.reshape(-1, given.shape[-1]).t()),
            above.sum(0) if ctx.needs_input_grad[2] else None,
        )


class Linear(nn.Linear):
    """A linear layer whose products are those of `linear`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[…, inputs] → […, outputs]."""
        return linear(inputs, self.weight, self.bias)


def hasten(network: nn.Module) -> None:
    """Let `network`'s linear layers learn by the faster products; what they hold stays as it is."""
    for part in network.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear
