"""The deep convolutional generative adversarial network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.families.adversarial import Adversarial, Painter
from components.families.family import Shape, tuned
from components.families.layers.convolution import (
    ChannelsLast,
    Crop,
    Unflatten,
    base,
    doubled,
    halved,
    small_normal,
    smallest,
    widths,
)


class Generator(Painter):
    """latent → a small picture of many channels → doubled until it is large enough → tanh.

    Batch norm and ReLU follow every layer but the last.
    """

    def __init__(self, latent: int, data: tuple[int, ...], width: int) -> None:
        super().__init__(data)
        channels = widths(data, width)[::-1]
        height, across = base(data)
        project = nn.Linear(latent, channels[0] * height * across, bias=False)
        layers: list[nn.Module] = [project, Unflatten(channels[0], (height, across))]
        layers += [nn.BatchNorm2d(channels[0]), nn.ReLU()]
        for inputs, outputs in pairwise(channels):
            layers += [doubled(inputs, outputs, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, doubled(channels[-1], data[0]), Crop(data), nn.Tanh())
        self.apply(small_normal)

    def forward(self, latent: Tensor) -> Tensor:
        """[N, latent] → [N, *data] in [−1, 1]."""
        picture: Tensor = self.layers(latent)
        return picture


class Features(nn.Sequential):
    """[N, *data] → [N, `size`]: halved until it is small, batch norm after every convolution but the first.

    `norm` False leaves all batch norm out.
    """

    def __init__(self, data: tuple[int, ...], width: int, norm: bool = True) -> None:
        channels = widths(data, width)
        layers: list[nn.Module] = [ChannelsLast(), halved(data[0], channels[0]), nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise(channels):
            layers.append(halved(inputs, outputs, bias=not norm))
            layers += [nn.BatchNorm2d(outputs)] if norm else []
            layers.append(nn.LeakyReLU(0.2))
        super().__init__(*layers, nn.Flatten())
        self.size = channels[-1] * smallest(data)
        self.apply(small_normal)


class Discriminator(nn.Module):
    """Features and one linear layer; no hidden layer is fully connected.

    The layer computes in float32: rows differ by less than bfloat16 tells of numbers as large as their mean.
    """

    def __init__(self, data: tuple[int, ...], width: int, norm: bool = True) -> None:
        super().__init__()
        self.features = Features(data, width, norm)
        self.head = nn.Linear(self.features.size, 1)
        small_normal(self.head)

    def forward(self, data: Tensor) -> Tensor:
        """[N, *data] → logits [N]; large for what looks real."""
        features = self.features(data)
        with torch.autocast(data.device.type, enabled=False):
            logits: Tensor = self.head(features.float())
        return logits.squeeze(1)


@dataclass(frozen=True, kw_only=True)
class DCGAN(Adversarial):
    """Radford et al. 2016 (arXiv:1511.06434, sections 3 and 4).

    Strided convolutions instead of pooling, batch norm but at the generator's end and the discriminator's
    beginning, weights from N(0, 0.02²), Adam at 2e-4 with β₁ = 0.5. The number of doublings follows from the
    picture's size. `width` counts the channels of the largest feature maps; the paper has 128 at 64×64.
    The discriminator's batch norm sees real and generated rows in batches of their own.
    """

    lr: float = tuned(2e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    width: int = tuned(64, low=16, high=128, log=True, least=1, most=4096)

    small: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "width": 16}

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The discriminator is updated first, so that the generator meets a judge that knows its last move."""
        return {
            "discriminator": Discriminator(shape.data, self.width),
            "generator": Generator(self.latent, shape.data, self.width),
        }
