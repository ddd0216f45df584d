"""Inverse autoregressive flow (Kingma et al. 2016, arXiv:1606.04934): a posterior whose latents know each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, logsigmoid

from components.families.layers.product import linear

OPEN = 1.5
"""The forget gates' bias at the start, with which a step keeps most of its input (section 4)."""


class Masked(nn.Linear):
    """A linear layer of which only the weights where `mask` [outputs, inputs] is 1 exist."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        outputs, inputs = mask.shape
        super().__init__(inputs, outputs)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs] → [N, outputs]."""
        return linear(inputs, self.weight * self.mask, self.bias)


class Step(nn.Module):
    """z ↦ g ⊙ z + (1 − g) ⊙ m, where m and g of a latent see only the latents before it (equations 12 to 14).

    One hidden layer, masked as in Germain et al. 2015 (arXiv:1502.03509, equation 8); `context` enters there.
    """

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        places, degrees = torch.arange(latent), torch.arange(hidden) % max(1, latent - 1)
        self.inner = Masked((degrees[:, None] >= places).float())
        self.outer = Masked((places[:, None] > degrees).float().repeat(2, 1))
        with torch.no_grad():
            self.outer.weight.mul_(0.1)
            self.outer.bias[latent:] = OPEN

    def forward(self, latent: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """[N, L] and context [N, hidden] → the new latents and the log of their derivatives, [N, L] each."""
        shift, gate = self.outer(gelu(self.inner(latent) + context)).float().chunk(2, dim=1)
        opened = gate.sigmoid()
        return opened * latent + (1.0 - opened) * shift, logsigmoid(gate)


class Flow(nn.Module):
    """`steps` steps, between which the order of the latents is turned round."""

    def __init__(self, latent: int, hidden: int, steps: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.steps = nn.ModuleList(Step(latent, hidden) for _ in range(steps))

    def forward(self, latent: Tensor, surprise: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [N, L] and the shares of −log q that each of them has, [N, L] → the same behind all steps."""
        for step in self.steps:
            latent, slope = step(latent.flip(1), context)
            surprise = surprise.flip(1) + slope
        return latent, surprise
