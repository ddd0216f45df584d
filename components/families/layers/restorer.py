"""A residual U-Net that corrects a picture: for denoising, filling holes, enlarging, colouring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, relu

from components.families.layers.translator import Translator, conv, fitted

UNSHUFFLE = 2
"""Side of the squares of pixels that become channels before the first convolution."""


class Residual(nn.Module):
    """x + conv(relu(conv(x))), without norms (Lim et al. 2017, arXiv:1707.02921, section 3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = conv(width, width), conv(width, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width, H, W] → the same."""
        update: Tensor = self.outer(relu(self.inner(inputs), inplace=True))
        return inputs + update


class Level(nn.Module):
    """Residual blocks at one resolution and, between them, all that is done at half of it.

    The convolutions that halve and double are those of Zhang et al. 2021 (arXiv:2008.13751, section 3.1), with a
    pixel shuffle for the transposed one; what comes back is added to what went down.
    """

    def __init__(self, width: int, blocks: int, levels: int) -> None:
        super().__init__()
        self.before = nn.ModuleList(Residual(width) for _ in range(blocks))
        self.after = nn.ModuleList(Residual(width) for _ in range(blocks if levels > 1 else 0))
        self.within: nn.Sequential | None = None
        if levels > 1:
            lower = Level(2 * width, blocks, levels - 1)
            back = nn.Sequential(conv(2 * width, 4 * width, size=1), nn.PixelShuffle(2))
            self.within = nn.Sequential(nn.Conv2d(width, 2 * width, 2, stride=2), lower, back)

    def forward(self, features: Tensor) -> Tensor:
        """[N, width, H, W] → the same; sides are multiples of 2^(levels − 1)."""
        for block in self.before:
            features = block(features)
        if self.within is not None:
            features = features + self.within(features)
        for block in self.after:
            features = block(features)
        return features


class Restorer(Translator):
    """The source's own picture plus a correction, which is zero at first (Zhang et al. 2017, arXiv:1608.03981).

    Squares of 2×2 pixels become channels at the entrance and pixels again at the exit, which makes everything
    between four times as cheap (FFDNet, Zhang et al. 2018, arXiv:1710.04026, section III). A source with one
    channel more than the picture carries a mask, 1 in the hole and −1 where the picture is known: only the hole
    is corrected. A grey source is the picture in all its channels.
    """

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int, levels: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.multiple = UNSHUFFLE * 2 ** (levels - 1)
        self.head = conv(inputs * UNSHUFFLE**2, width)
        self.body = Level(width, blocks, levels)
        self.tail = conv(width, outputs * UNSHUFFLE**2)
        for value in self.tail.parameters():
            nn.init.zeros_(value)

    def forward(self, source: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H, W], of any height and width."""
        height, width = source.shape[2:]
        squares = pixel_unshuffle(fitted(source, self.multiple), UNSHUFFLE)
        # on CPUs bf16 convolutions are 1.75 times as fast with channels last
        features = self.head(squares.contiguous(memory_format=torch.channels_last))
        correction = pixel_shuffle(self.tail(self.body(features)), UNSHUFFLE)[:, :, :height, :width]
        if self.inputs == self.outputs + 1:
            correction = correction * (0.5 * (source[:, -1:] + 1.0))
        return self.picture(source) + correction

    def picture(self, source: Tensor) -> Tensor:
        """What the source shows, [N, outputs, H, W]."""
        if self.inputs >= self.outputs:
            return source[:, : self.outputs]
        return source[:, :1].expand(-1, self.outputs, -1, -1)
