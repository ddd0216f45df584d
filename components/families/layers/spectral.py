"""Spectral norm: weights divided by their largest singular value (Miyato et al. 2018, arXiv:1802.05957)."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.parametrize import register_parametrization

Module = TypeVar("Module", bound=nn.Module)
EPSILON = 1e-12
FIRST_ITERATIONS = 15
"""Power iterations at the start, from a random vector."""


class SpectralNorm(nn.Module):
    """W → W / σ(W), with σ by power iteration (section 3.2 and algorithm 1): one more in each training forward.

    torch's own keeps both singular vectors and, when evaluated, multiplies by them as they stand. Averages of
    weights over time or over workers average buffers too, and the mean of unit vectors is none, so σ would be
    too small. Here the one vector that is kept is a direction only, and evaluation takes a step of its own.
    """

    direction: Tensor

    def __init__(self, weight: Tensor, axis: int) -> None:
        super().__init__()
        self.axis = axis
        rows = self._matrix(weight.detach())
        direction = torch.randn(len(rows))
        for _ in range(FIRST_ITERATIONS):
            direction = rows @ (rows.T @ normalize(direction, dim=0, eps=EPSILON))
        self.register_buffer("direction", normalize(direction, dim=0, eps=EPSILON))

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.axis, 0).flatten(1)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with a largest singular value of about 1; its gradient passes through σ."""
        with torch.autocast(weight.device.type, enabled=False):
            rows = self._matrix(weight)
            with torch.no_grad():
                right = normalize(rows.T @ self.direction, dim=0, eps=EPSILON)
                left = normalize(rows @ right, dim=0, eps=EPSILON)
                if self.training:
                    self.direction.copy_(left)
            return weight / torch.dot(left, rows @ right).clamp(min=EPSILON)


def spectral(module: Module) -> Module:
    """`module` with its weight under spectral norm; of transposed convolutions the outputs are the second axis."""
    axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
    assert isinstance(module.weight, Tensor)
    # unsafe: the check would multiply, which networks on the meta device cannot
    register_parametrization(module, "weight", SpectralNorm(module.weight, axis), unsafe=True)
    return module
