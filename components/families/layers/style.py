"""The blocks of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958): mapping, one size of the synthesis, halving."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, one_hot

from components.families.layers.modulation import (
    GAIN,
    SLOPE,
    Convolution,
    Linear,
    Painted,
    Styled,
    doubled,
    normalized,
)

MEAN_MEMORY = 5e-4
"""The weight of one row in the mean style of its class: of 64 rows 3%."""


class Mapper(nn.Module):
    """z, and perhaps a class, to the style w by linear layers of one width; keeps the mean of w.

    The class enters by an embedding beside z, both normalised (Karras et al. 2020b, appendix C). `rate` is its
    learning rate over that of the rest (Karras et al. 2019, arXiv:1812.04948, appendix C).
    """

    mean: Tensor
    """The running mean of w, of each class where there are any, [classes or 1, style]."""

    def __init__(self, latent: int, style: int, depth: int, classes: int, rate: float) -> None:
        super().__init__()
        self.latent = latent
        self.embedding = Linear(classes, style) if classes else None
        sizes = [latent + (style if classes else 0), *[style] * depth]
        self.layers = nn.ModuleList(
            Linear(inputs, outputs, GAIN, rate) for inputs, outputs in pairwise(sizes)
        )
        self.register_buffer("mean", torch.zeros(classes or 1, style))

    def forward(self, latent: Tensor, label: Tensor | None) -> Tensor:
        """[N, latent] and classes [N] → w [N, style], fp32; without classes the label says nothing."""
        with torch.autocast(latent.device.type, enabled=False):
            hidden = normalized(latent.float())
            if self.embedding is not None:
                hot = one_hot(self.place(label, len(latent)), len(self.mean)).float()
                hidden = torch.cat([hidden, normalized(self.embedding(hot))], dim=1)
            for layer in self.layers:
                hidden = leaky_relu(layer(hidden), SLOPE)
        return hidden

    def truncated(self, style: Tensor, label: Tensor | None, share: Tensor) -> Tensor:
        """`style` [N, style] moved to the mean of its class: all the way at a `share` [N] of 0, not at all at 1."""
        mean, share = self.mean[self.place(label, len(style))], share[:, None]
        return torch.where(share == 1.0, style, mean + share * (style - mean))

    @torch.no_grad()
    def follow(self, style: Tensor, label: Tensor | None) -> None:
        """Move the means towards `style` [N, style], the further the more rows there are of a class."""
        place = self.place(label, len(style))
        counts = self.mean.new_zeros(len(self.mean)).index_add_(0, place, style.new_ones(len(style)))[:, None]
        sums = torch.zeros_like(self.mean).index_add_(0, place, style)
        self.mean.lerp_(sums / counts.clamp(min=1.0), 1.0 - (1.0 - MEAN_MEMORY) ** counts)

    def place(self, label: Tensor | None, rows: int) -> Tensor:
        """The row of `mean` of each class of `label` [N]."""
        if self.embedding is None:
            return torch.zeros(rows, dtype=torch.int64, device=self.mean.device)
        assert label is not None, "a generator that draws by class needs one a row"
        return label


class Size(nn.Module):
    """The layers of one size: a convolution that doubles (but for the first size), one that does not, a picture."""

    def __init__(self, inputs: int, outputs: int, channels: int, style: int) -> None:
        super().__init__()
        self.enlarge = Styled(inputs, outputs, style, double=True) if inputs else None
        self.keep = Styled(outputs, outputs, style)
        self.painted = Painted(outputs, channels, style)

    def forward(
        self, maps: Tensor, picture: Tensor | None, styles: list[Tensor], noises: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Maps [N, inputs, H, W] and picture [N, channels, H, W] → both of twice the size.

        `styles` holds a [N, style] for each convolution and for the picture, `noises` a [N, 1, H', W'] for each
        convolution.
        """
        if self.enlarge is not None:
            maps = self.enlarge(maps, styles[0], noises[0])
        maps = self.keep(maps, styles[-2], noises[-1])
        added: Tensor = self.painted(maps, styles[-1])
        return maps, added if picture is None else doubled(picture) + added


class Halving(nn.Module):
    """Two convolutions, of which the second halves, beside a filtered one of 1×1 (figure 7c)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.keep = Convolution(inputs, inputs, 3, GAIN)
        # both ways are divided by √2, so that their sum is of unit size
        self.halve = Convolution(inputs, outputs, 3, GAIN / math.sqrt(2.0), halve=True)
        self.around = Convolution(inputs, outputs, 1, 1.0 / math.sqrt(2.0), halve=True, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H // 2, W // 2]."""
        around: Tensor = self.around(inputs)
        return around + leaky_relu(self.halve(leaky_relu(self.keep(inputs), SLOPE)), SLOPE)
