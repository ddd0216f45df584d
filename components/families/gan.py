"""The plain generative adversarial network of two multilayer perceptrons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from components.families.adversarial import Adversarial, Painter, accuracy
from components.families.family import Batch, Losses, Shape, tuned

WIDTHS = (256, 512, 1024)


class Generator(Painter):
    """latent → 256 → 512 → 1024 → data, leaky ReLU between, tanh at the end."""

    def __init__(self, latent: int, data: tuple[int, ...]) -> None:
        super().__init__(data)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((latent, *WIDTHS), WIDTHS, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(WIDTHS[-1], math.prod(data)), nn.Tanh())

    def forward(self, latent: Tensor) -> Tensor:
        """[N, latent] → [N, *data] in [−1, 1]."""
        flat: Tensor = self.layers(latent)
        return flat.view(-1, *self.data)


class Discriminator(nn.Module):
    """data → 1024 → 512 → 256 → one logit, leaky ReLU and dropout between."""

    def __init__(self, data: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = WIDTHS[::-1]
        for inputs, outputs in zip((math.prod(data), *widths), widths, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(WIDTHS[0], 1))

    def forward(self, data: Tensor) -> Tensor:
        """[N, *data] → logits [N]; large for what looks real."""
        logits: Tensor = self.layers(data.flatten(1)).float()  # on a CPU autocast leaves the loss as it is
        return logits.squeeze(1)


@dataclass(frozen=True, kw_only=True)
class GAN(Adversarial):
    """Goodfellow et al. 2014, with the non-saturating generator loss of section 3.

    The latent is standard normal. Adam's β₁ = 0.5 follows Radford et al. 2016, section 4. `r1` weighs the
    zero-centred gradient penalty on real rows of Mescheder et al. 2018 (arXiv:1801.04406, equation 9), without
    which perceptrons collapse onto a few modes; 0 is the loss of 2014.
    """

    lr: float = tuned(5e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    dropout: float = tuned(0.3, low=0.0, high=0.5, least=0.0, most=0.95)
    r1: float = tuned(0.5, low=0.05, high=10.0, log=True, least=0.0, most=1e4)

    double_backward: ClassVar[bool] = True

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The discriminator is updated first, so that the generator meets a judge that knows its last move."""
        return {
            "discriminator": Discriminator(shape.data, self.dropout),
            "generator": Generator(self.latent, shape.data),
        }

    def discriminator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Losses:
        """−log D(x) − log(1 − D(G(z))) and the penalty on the slope at real rows."""
        real = batch.data.detach().requires_grad_(bool(self.r1))
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        loss = softplus(-real_logits).mean() + softplus(fake_logits).mean()
        if self.r1:
            loss = loss + 0.5 * self.r1 * squared_slope(real_logits, real).mean()
        return loss, {"accuracy": accuracy(real_logits, fake_logits)}


def squared_slope(logits: Tensor, inputs: Tensor) -> Tensor:
    """‖∇ logits‖² with respect to `inputs`, [N], differentiable itself."""
    (slope,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    squared: Tensor = slope.float().square().flatten(1).sum(1)
    return squared
