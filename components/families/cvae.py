"""The variational autoencoder that is told the class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from components.families.family import Networks, Shape, Task
from components.families.layers.autoencoder import Autoencoder
from components.families.vae import VAE, autoencoder


class ConditionalAutoencoder(Autoencoder):
    """The encoder sees one more channel, a learned picture of the class; the decoder also gets the class itself."""

    def __init__(self, shape: Shape, family: CVAE) -> None:
        super().__init__(shape.data, *family.parts(shape.data, planes=1, told=shape.classes))
        self.classes = shape.classes
        self.plane = nn.Embedding(shape.classes, math.prod(shape.data[1:]))

    def features(self, data: Tensor, label: Tensor | None = None) -> Tensor:
        """Of q(z|x, y); see `Autoencoder`."""
        assert label is not None, "a conditional family is always told the class"
        plane = self.plane(label).view(-1, 1, *self.data[1:])
        return super().features(torch.cat((data, plane), dim=1))

    def slopes(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Of p(x|z, y); see `Autoencoder`."""
        assert label is not None, "a conditional family is always told the class"
        return super().slopes(torch.cat((latent, one_hot(label, self.classes)), dim=1))


@dataclass(frozen=True, kw_only=True)
class CVAE(VAE):
    """Sohn et al. 2015, “Learning structured output representation using deep conditional generative models”.

    Equation 4 with the picture as the output and its class y as the input: q(z|x, y) and p(x|z, y) are told the
    class, and the prior of z is the same for all classes, as in Kingma et al. 2014 (arXiv:1406.5298, equation 6), so
    a latent keeps the hand while the class changes.
    """

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.LABEL})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network, because encoder and decoder share one loss."""
        return {"autoencoder": ConditionalAutoencoder(shape, self)}

    def encode(self, networks: Networks, data: Tensor) -> Tensor:
        """The means of q(z|x, y), [N, latent], under the class y whose own means explain the row best.

        The class is not asked for, because nobody can be sure that a stranger's picture has one of them.
        """
        network = autoencoder(networks)
        assert isinstance(network, ConditionalAutoencoder)
        every, costs = [], []
        for own in range(network.classes):
            label = torch.full((len(data),), own, device=data.device)
            explained = network.explain(network.features(data, label), label, spread=0.0)
            every.append(explained.latent)
            costs.append(network.surprise(data, explained.slopes) + explained.divergence.sum(1))
        best = torch.stack(costs).argmin(0)
        return torch.stack(every)[best, torch.arange(len(data), device=data.device)]
