"""The variational autoencoder of convolutions with self-attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from components.families.family import tuned
from components.families.layers.grid import grid_decoder, grid_encoder
from components.families.vae import VAE


@dataclass(frozen=True, kw_only=True)
class AttentionVAE(VAE):
    """The convolutional `vae` (arXiv:1312.6114) with self-attention behind every block of the coarse grid.

    On that grid, a quarter of the picture's sides, each place looks at all places, as in Zhang et al. 2019
    (arXiv:1805.08318, section 3) but with heads of 16 numbers (where `width` is a multiple of 128) and scaled products
    (Vaswani et al. 2017); Vahdat & Kautz 2020 (arXiv:2007.03898) and Child 2021 leave it out of deep hierarchies, this
    one has a single latent.
    """

    latent: int = tuned(32, low=4, high=128, log=True, least=1, most=65_536)
    network: str = "convolution"

    small: ClassVar[Mapping[str, Any]] = {"width": 128}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network != "convolution":
            raise ValueError(f"network = {self.network!r}: attention needs the grid of “convolution”")

    def encoder(self, data: tuple[int, ...], outputs: int) -> nn.Module:
        """A flat picture of shape `data` → [N, outputs]."""
        return grid_encoder(data, outputs, self.width, self.depth, attention=True)

    def decoder(self, inputs: int, data: tuple[int, ...]) -> nn.Module:
        """[N, inputs] → a flat picture of shape `data`."""
        return grid_decoder(inputs, data, self.width, self.depth, attention=True)
