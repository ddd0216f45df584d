"""A convolutional encoder and decoder of pictures: two scales of residual blocks around a perceptron.

There is no norm on the grids: blocks begin as the identity, which is enough at these depths (Child 2021,
arXiv:2011.10650, section 3.2) and cheaper than statistics of every pixel.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import gelu, pad, scaled_dot_product_attention

from components.families.layers.perceptron import perceptron

HEAD = 16
"""Numbers of an attention head."""


class GridResidual(nn.Module):
    """x + W₂ gelu(W₁ gelu(x)), 3×3 and 1×1, of one number of channels; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.outer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, H, W] → the same."""
        update: Tensor = self.outer(gelu(self.inner(gelu(inputs))))
        return inputs + update


class GridAttention(nn.Module):
    """x + W attention(norm(x)): every place looks at all places; W starts at zero.

    Heads have 16 numbers; where the channels are no multiple of that, there is one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD) if channels % HEAD == 0 else 1
        self.norm = nn.GroupNorm(1, channels)
        self.qkv, self.out = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, H, W] → the same."""
        rows, channels, height, width = inputs.shape
        parts = self.qkv(self.norm(inputs)).view(rows, 3, self.heads, -1, height * width).transpose(3, 4)
        queries, keys, values = parts.unbind(1)
        mixed = scaled_dot_product_attention(queries, keys, values).transpose(2, 3)
        update: Tensor = self.out(mixed.reshape(rows, channels, height, width))
        return inputs + update


class Padded(nn.Module):
    """A flat picture [N, C·H·W] → [N, C, H', W'] whose sides are multiples of four, with the edge repeated."""

    def __init__(self, data: tuple[int, ...]) -> None:
        super().__init__()
        self.data = data

    def forward(self, flat: Tensor) -> Tensor:
        """See the class."""
        _, height, width = self.data
        return pad(flat.view(-1, *self.data), (0, -width % 4, 0, -height % 4), mode="replicate")


class Cropped(nn.Module):
    """[N, C, H', W'] → the flat picture [N, C·H·W] of its upper left part."""

    def __init__(self, data: tuple[int, ...]) -> None:
        super().__init__()
        self.data = data

    def forward(self, padded: Tensor) -> Tensor:
        """See the class."""
        _, height, width = self.data
        return padded[..., :height, :width].flatten(1)


def coarse_of(data: tuple[int, ...], channels: int) -> tuple[int, int, int]:
    """The grid at a quarter of the sides, [channels, ⌈H/4⌉, ⌈W/4⌉]."""
    return channels, -(-data[1] // 4), -(-data[2] // 4)


def blocks(channels: int, depth: int, attention: bool = False) -> list[nn.Module]:
    """`depth` residual blocks, each with self-attention behind it if asked."""
    found: list[nn.Module] = []
    for _ in range(depth):
        found.append(GridResidual(channels))
        if attention:
            found.append(GridAttention(channels))
    return found


def grid_encoder(
    data: tuple[int, ...], outputs: int, width: int, depth: int, attention: bool = False
) -> nn.Sequential:
    """A flat picture → [N, outputs]: grids of 1/2 and 1/4 of the sides, then a perceptron of `width`.

    The grids have 1/16 and 1/8 of `width` as channels and `depth` blocks each; attention is on the coarse one.
    """
    fine, coarse = channels_of(width)
    return nn.Sequential(
        Padded(data),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * data[0], fine, 3, padding=1),
        *blocks(fine, depth),
        nn.Conv2d(fine, coarse, 2, stride=2),
        *blocks(coarse, depth, attention),
        nn.GELU(),
        nn.Flatten(),
        perceptron(math.prod(coarse_of(data, coarse)), outputs, width, 1),
    )


def grid_decoder(
    inputs: int, data: tuple[int, ...], width: int, depth: int, attention: bool = False
) -> nn.Sequential:
    """[N, inputs] → a flat picture, through the grids of `grid_encoder` in the other order."""
    fine, coarse = channels_of(width)
    grid = coarse_of(data, coarse)
    return nn.Sequential(
        perceptron(inputs, math.prod(grid), width, 1),
        nn.Unflatten(1, grid),
        *blocks(coarse, depth, attention),
        nn.Conv2d(coarse, 4 * fine, 1),
        nn.PixelShuffle(2),
        *blocks(fine, depth),
        nn.GELU(),
        nn.Conv2d(fine, 4 * data[0], 3, padding=1),
        nn.PixelShuffle(2),
        Cropped(data),
    )


def channels_of(width: int) -> tuple[int, int]:
    """The channels of the fine and of the coarse grid."""
    return max(1, width // 16), max(1, width // 8)
