"""Pieces of convolutional networks whose number of halvings and doublings follows from a picture's size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_BASE = 7
"""Pixels of the shorter side to which a picture is halved: 28 becomes 7; 32, 64 and 128 become 4."""
MOST_WIDTHS = 8
"""How many times `width` a layer has at most; Radford et al. 2016 go from 128 to 1024 channels."""


def halvings(data: tuple[int, ...]) -> int:
    """How often a picture [C, H, W] is halved until its shorter side is at most `LARGEST_BASE`; at least once."""
    count = 1
    while min(data[1:]) > LARGEST_BASE << count:
        count += 1
    return count


def widths(data: tuple[int, ...], width: int) -> list[int]:
    """The channels after each halving of [C, H, W]: `width`, then twice as many each time, up to 8 × `width`."""
    return [width * min(1 << place, MOST_WIDTHS) for place in range(halvings(data))]


def base(data: tuple[int, ...]) -> tuple[int, int]:
    """The height and width from which doublings reach at least those of [C, H, W]; `Crop` takes the rest away."""
    scale = 1 << halvings(data)
    return -(-data[1] // scale), -(-data[2] // scale)


def smallest(data: tuple[int, ...]) -> int:
    """The pixels that halvings of [C, H, W] by `halved` leave: each rounds down, and its padding sees the edge."""
    scale = 1 << halvings(data)
    return (data[1] // scale) * (data[2] // scale)


def doubled(inputs: int, outputs: int, bias: bool = True) -> nn.ConvTranspose2d:
    """[N, inputs, H, W] → [N, outputs, 2H, 2W]; each pixel gets the same number of kernel taps."""
    return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


def halved(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """[N, inputs, H, W] → [N, outputs, H // 2, W // 2]."""
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)


class Unflatten(nn.Module):
    """Flat rows as pictures of `channels` and `size`, channels last in memory, which convolutions are faster on."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (*size, channels)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, H·W·C] → [N, C, H, W]."""
        return inputs.view(-1, *self.shape).permute(0, 3, 1, 2)


class ChannelsLast(nn.Module):
    """The same values with the channels last in memory."""

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, H, W]."""
        return inputs.contiguous(memory_format=torch.channels_last)


class Crop(nn.Module):
    """The middle of a picture that is larger than `data` [C, H, W]."""

    def __init__(self, data: tuple[int, ...]) -> None:
        super().__init__()
        self.size = data[1:]

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, ≥H, ≥W] → [N, C, H, W]."""
        height, width = self.size
        top, left = (inputs.shape[2] - height) // 2, (inputs.shape[3] - width) // 2
        return inputs[:, :, top : top + height, left : left + width]


def small_normal(module: nn.Module) -> None:
    """Draw the weights of convolutions and linear layers from N(0, 0.02²) (Radford et al. 2016, section 4)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
