"""The RMS norm (Zhang & Sennrich 2019, arXiv:1910.07467), with a backward pass of few sweeps over the memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

EPSILON = 1e-6
"""What is added to the mean square."""


class _Normed(torch.autograd.Function):
    """x ⊙ w / rms(x) over the last axis; `w` has the shape of the last one or two axes.

    With r = 1/rms(x) and d = g ⊙ w, the gradient of x is r (d − x r² mean(d ⊙ x)).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        norm = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = norm.square_().div_(inputs.shape[-1]).add_(EPSILON).rsqrt_()
        return (inputs * inverse).mul_(weight), inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        inputs, weight, inverse = ctx.saved_tensors
        product = gradients[0] * inputs
        share = (product * weight).sum(-1, keepdim=True).mul_(inverse**3 / inputs.shape[-1])
        slope = (gradients[0] * weight).mul_(inverse).addcmul_(inputs, share, value=-1)
        rows = product.mul_(inverse).flatten(0, -1 - weight.dim())
        return slope.to(inputs.dtype), rows.sum(0)


def normed(inputs: Tensor, weight: Tensor) -> Tensor:
    """x ⊙ w / rms(x) over the last axis; `weight` has the shape of the last one or two axes.

    On the CPU `torch` has no fused kernel, and its gradient takes half as long again as this one's.
    """
    if inputs.is_cpu:
        if not torch.is_grad_enabled():
            return _Normed.forward(inputs, weight)[0]
        output: Tensor = _Normed.apply(inputs, weight)[0]  # type: ignore[no-untyped-call]
        return output
    if weight.dim() == 1:
        return rms_norm(inputs, weight.shape, weight, EPSILON)
    return rms_norm(inputs, inputs.shape[-1:], eps=EPSILON) * weight


class RMSNorm(nn.Module):
    """x ⊙ weight / rms(x), over the last axis of size `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., width] → the same."""
        return normed(inputs, self.weight)
