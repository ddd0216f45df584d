"""The conditional generative adversarial network: a picture of the class that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.families import dcgan
from components.families.adversarial import Adversarial, Painter
from components.families.family import Shape, Task, bounded, tuned
from components.families.layers.conditional import Projection


class Generator(Painter):
    """DCGAN's generator on the latent and an embedding of the class, side by side."""

    def __init__(self, latent: int, data: tuple[int, ...], width: int, classes: int, embedding: int) -> None:
        super().__init__(data)
        self.embedding = nn.Embedding(classes, embedding)
        self.painter = dcgan.Generator(latent + embedding, data, width)

    def forward(self, latent: Tensor, label: Tensor) -> Tensor:
        """[N, latent] and classes [N] → [N, *data] in [−1, 1]."""
        picture: Tensor = self.painter(torch.cat([latent, self.embedding(label)], dim=1))
        return picture


class Discriminator(nn.Module):
    """DCGAN's features and a projection on the class."""

    def __init__(self, data: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.features = dcgan.Features(data, width)
        self.head = Projection(self.features.size, classes)

    def forward(self, data: Tensor, label: Tensor) -> Tensor:
        """[N, *data] and classes [N] → logits [N]; large for what looks like a real row of its class."""
        logits: Tensor = self.head(self.features(data), label)
        return logits


@dataclass(frozen=True, kw_only=True)
class CGAN(Adversarial):
    """Mirza & Osindero 2014 (arXiv:1411.1784, section 3.2), with the networks of DCGAN.

    The generator reads an embedding of the class beside its latent. The discriminator meets the class at its end,
    in the projection of Miyato & Koyama 2018 (arXiv:1802.05637), because a class that is joined to its input, as
    in the paper of 2014, is learned more slowly.
    """

    lr: float = tuned(2e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)
    width: int = tuned(64, low=16, high=128, log=True, least=1, most=4096)
    embedding: int = bounded(32, least=1, most=4096)

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.LABEL})
    small: ClassVar[Mapping[str, Any]] = {"lr": 1e-3, "width": 16}

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The discriminator is updated first, as in every family here."""
        return {
            "discriminator": Discriminator(shape.data, self.width, shape.classes),
            "generator": Generator(self.latent, shape.data, self.width, shape.classes, self.embedding),
        }
