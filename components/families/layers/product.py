"""Products of linear layers that learn on a CPU, by oneDNN where torch's own library has no kernels for the processor.

torch multiplies single-precision matrices by MKL, which gives an AMD processor less than half of what it can do.
oneDNN, which lies in torch as well, asks what a processor can do and not who made it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.families.layers import packed

LEAST = 2**23
"""Multiplications of one product from which this is faster: the call itself costs some 30 µs more."""


@cache
def wanted() -> bool:
    """Whether oneDNN is there and the processor one of AMD's."""
    return packed.there() and _maker() == "AuthenticAMD"


def _maker() -> str:
    """Who made the processor, as it says itself; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


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
        given, weight, bias = inputs
        ctx.save_for_backward(given, weight)
        ctx.biased = bias is not None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        given, weight = ctx.saved_tensors
        above = gradients[0].reshape(-1, weight.shape[0])
        below = given.reshape(-1, weight.shape[1])
        wants_inputs, wants_weight, wants_bias = ctx.needs_input_grad
        return (
            _product(above, weight.t()).view_as(given) if wants_inputs else None,
            _product(above.t(), below.t()) if wants_weight else None,
            above.sum(0) if wants_bias else None,
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
