"""The self-attention generative adversarial network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from components.families.adversarial import Adversarial, Painter, accuracy
from components.families.family import Batch, Losses, Shape, Task, bounded, tuned
from components.families.layers.conditional import ClassNorm, Projection
from components.families.layers.convolution import (
    ChannelsLast,
    Crop,
    Unflatten,
    base,
    doubled,
    halved,
    halvings,
    smallest,
    widths,
)
from components.families.layers.selfattention import SelfAttention
from components.families.layers.spectral import spectral


def attended(data: tuple[int, ...]) -> int:
    """The number of the halving of [C, H, W], from 0, whose places attend to each other: the second, if there is one.

    At a quarter of the side the paper's Fréchet distance was least (table 1: 32 of 128).
    """
    return min(1, halvings(data) - 1)


class Doubling(nn.Module):
    """Batch norm by class, ReLU, and a transposed convolution, under spectral norm if it is `bound`."""

    def __init__(self, inputs: int, outputs: int, classes: int, bound: bool) -> None:
        super().__init__()
        self.norm = ClassNorm(inputs, classes)
        convolution = doubled(inputs, outputs)
        self.convolution = spectral(convolution) if bound else convolution

    def forward(self, inputs: Tensor, label: Tensor) -> Tensor:
        """[N, inputs, H, W] and classes [N] → [N, outputs, 2H, 2W]."""
        larger: Tensor = self.convolution(relu(self.norm(inputs, label)))
        return larger


class Generator(Painter):
    """latent → a small picture → doublings by class, attention before one of them → tanh."""

    def __init__(self, latent: int, data: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__(data)
        channels, size = widths(data, width)[::-1], base(data)
        self.project = spectral(nn.Linear(latent, channels[0] * size[0] * size[1]))
        self.small = Unflatten(channels[0], size)
        doublings = [Doubling(inputs, outputs, classes, True) for inputs, outputs in pairwise(channels)]
        # the last is not bound: a norm of 1 keeps pictures grey until the gains before it have grown
        self.doublings = nn.ModuleList([*doublings, Doubling(channels[-1], data[0], classes, False)])
        self.place = len(channels) - 1 - attended(data)
        self.attention = SelfAttention(channels[self.place])
        self.crop = Crop(data)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """[N, latent] and classes [N] → [N, *data] in [−1, 1]."""
        hidden = self.small(self.project(latent))
        for place, doubling in enumerate(self.doublings):
            hidden = doubling(self.attention(hidden) if place == self.place else hidden, label)
        picture: Tensor = self.crop(hidden)
        return picture.tanh()


class Discriminator(nn.Module):
    """Halvings under spectral norm, attention after one of them, and a projection on the class."""

    def __init__(self, data: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        channels = widths(data, width)
        layers: list[nn.Module] = [ChannelsLast()]
        for place, (inputs, outputs) in enumerate(pairwise([data[0], *channels])):
            layers += [spectral(halved(inputs, outputs)), nn.LeakyReLU(0.2)]
            layers += [SelfAttention(outputs)] if place == attended(data) else []
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = Projection(channels[-1] * smallest(data), classes)
        spectral(self.head.linear)
        spectral(self.head.embedding)

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """[N, *data] and classes [N] → logits [N]; large for what looks like a real row of its class."""
        logits: Tensor = self.head(self.features(data), label)
        return logits


@dataclass(frozen=True, kw_only=True)
class AttentionGAN(Adversarial):
    """SAGAN, Zhang et al. 2019 (arXiv:1805.08318).

    Self-attention at a middle resolution, spectral norm in both networks, the hinge loss (equation 4), batch norm
    by class in the generator and a projection in the discriminator, Adam with β = (0, 0.9), and two time scales:
    the discriminator learns `balance` times as fast, so one update of each makes a step (section 4.2). The blocks
    are strided convolutions and not residual, for speed.
    """

    lr: float = tuned(1e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    balance: float = tuned(4.0, low=1.0, high=8.0, log=True, least=0.01, most=100.0)
    beta1: float = bounded(0.0, least=0.0, most=0.999)
    beta2: float = bounded(0.9, least=0.0, most=0.99999)
    width: int = tuned(64, low=16, high=128, log=True, least=1, most=4096)

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.LABEL})
    small: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "width": 16}

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The discriminator is updated first."""
        return {
            "discriminator": Discriminator(shape.data, self.width, shape.classes),
            "generator": Generator(self.latent, shape.data, self.width, shape.classes),
        }

    def rate(self, name: str) -> float:
        """`lr` for the generator, `balance` times that for the discriminator."""
        return self.lr * (self.balance if name == "discriminator" else 1.0)

    def discriminator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Losses:
        """max(0, 1 − D(x)) + max(0, 1 + D(G(z)))."""
        rows, (label,) = torch.cat([batch.data, fake]), self.asked(batch)  # no batch norm: one call is faster
        real_logits, fake_logits = discriminator(rows, torch.cat([label, label])).chunk(2)
        loss = relu(1.0 - real_logits).mean() + relu(1.0 + fake_logits).mean()
        return loss, {"accuracy": accuracy(real_logits, fake_logits)}

    def generator_loss(self, discriminator: nn.Module, batch: Batch, fake: Tensor) -> Tensor:
        """−D(G(z))."""
        loss: Tensor = -discriminator(fake, *self.asked(batch)).mean()
        return loss
