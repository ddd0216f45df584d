"""The Wasserstein generative adversarial network with gradient penalty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.families.adversarial import Adversarial
from components.families.dcgan import Discriminator, Generator
from components.families.family import Batch, Losses, Shape, bounded, tuned
from components.families.gan import squared_slope

EPSILON = 1e-12
"""Keeps the root's slope finite where the critic is flat."""


@dataclass(frozen=True, kw_only=True)
class WGANGP(Adversarial):
    """Gulrajani et al. 2017 (arXiv:1704.00028, algorithm 1), with the networks of DCGAN.

    The critic has no batch norm, because its penalty is one for each row (section 4). It is updated every step,
    the generator every `critic_steps`-th, so `train.steps` counts the critic's. Adam has β = (0, 0.9). What is
    logged is the critic's estimate of the Wasserstein distance and its slope, which the penalty keeps near 1;
    there is no accuracy, because a critic is no classifier.
    """

    lr: float = tuned(1e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    beta1: float = bounded(0.0, least=0.0, most=0.999)
    beta2: float = bounded(0.9, least=0.0, most=0.99999)
    width: int = tuned(64, low=16, high=128, log=True, least=1, most=4096)
    penalty: float = tuned(10.0, low=1.0, high=100.0, log=True, least=0.0, most=1e4)
    critic_steps: int = tuned(5, low=1, high=8, least=1, most=1000)

    double_backward: ClassVar[bool] = True
    judge: ClassVar[str] = "critic"
    small: ClassVar[Mapping[str, Any]] = {"lr": 2e-3, "width": 16, "critic_steps": 2}

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The critic is updated first."""
        return {
            "critic": Discriminator(shape.data, self.width, norm=False),
            "generator": Generator(self.latent, shape.data, self.width),
        }

    def due(self, name: str, step: int) -> bool:
        """The generator's turn comes after `critic_steps` updates of the critic."""
        return name == "critic" or (step + 1) % self.critic_steps == 0

    def discriminator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Losses:
        """D(G(z)) − D(x) + λ (‖∇D‖ − 1)²."""
        real_scores, fake_scores = discriminator(torch.cat([batch.data, fake])).chunk(2)
        distance = real_scores.mean() - fake_scores.mean()
        slope = slopes_between(discriminator, batch.data, fake)
        loss = self.penalty * (slope - 1).square().mean() - distance
        return loss, {"wasserstein": distance.detach(), "slope": slope.mean().detach()}

    def generator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Tensor:
        """−D(G(z))."""
        loss: Tensor = -discriminator(fake).mean()
        return loss


def slopes_between(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """‖∇ critic‖ [N] at a random point of each line from a real row to a generated one, both [N, …]."""
    share = torch.rand(len(real), *[1] * (real.dim() - 1), device=real.device)
    between = torch.lerp(real, fake.to(real.dtype), share).requires_grad_()
    return (squared_slope(critic(between), between) + EPSILON).sqrt()
