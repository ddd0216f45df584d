"""Pieces of StyleGAN2 (Karras et al. 2020, arXiv:1912.04958): equalized layers, modulated convolutions, resampling.

A leaky ReLU is multiplied by √2, so that it keeps the size of what goes through it. As it is positively homogeneous,
the factor stands before it, in what the layer multiplies anyway: `gain`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, pad

from components.families.layers.product import linear

EPSILON = 1e-8
GAIN = math.sqrt(2.0)
"""What a leaky ReLU is multiplied by."""
SLOPE = 0.2
TAPS = (1.0, 3.0, 3.0, 1.0)
"""The filter of all resampling, in either direction (section 2.2 of arXiv:1912.04958, after StyleGAN)."""


class Linear(nn.Module):
    """A linear layer whose weights begin as N(0, 1) and are scaled when used (Karras et al. 2018, section 4.1).

    So Adam's step is the same share of every layer's weights. `rate` multiplies the learning rate of this layer.
    """

    def __init__(
        self, inputs: int, outputs: int, gain: float = 1.0, rate: float = 1.0, bias: float = 0.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.scale, self.bias_scale = rate * gain / math.sqrt(inputs), rate * gain

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., inputs] → [..., outputs]."""
        return linear(inputs, self.weight * self.scale, self.bias * self.bias_scale)


class Convolution(nn.Module):
    """A convolution with equalized learning rate; with `halve`, blurred and strided: [H, W] → [H // 2, W // 2]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        gain: float = 1.0,
        halve: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.scale, self.gain, self.halve = gain / math.sqrt(inputs * size * size), gain, halve

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H, W], halved or not."""
        weight, size = self.weight * self.scale, self.weight.shape[2]
        bias = None if self.bias is None else self.bias * self.gain
        if not self.halve:
            return conv2d(inputs, weight, bias, padding=size // 2)
        if size == 1:
            return conv2d(halved(inputs), weight, bias)
        return conv2d(blurred(inputs, (size + 1) // 2), weight, bias, stride=2)


class Modulated(nn.Module):
    """A convolution whose inputs a style scales and whose outputs are brought back to unit size (equations 1 to 3).

    Scaling and bringing back are done to the maps, before and after one convolution that all rows share: the
    result is that of weights of a row's own, and no row's weights need to be made. With `double`, [H, W] →
    [2H, 2W].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: int,
        style: int,
        double: bool = False,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.style = Linear(style, inputs, bias=1.0)
        self.doubling, self.demodulate = double, demodulate
        self.scale = 1.0 / math.sqrt(inputs * size * size)

    def forward(self, inputs: Tensor, style: Tensor) -> tuple[Tensor, Tensor | None]:
        """[N, inputs, H, W] and w [N, style] → [N, outputs, …] not yet of unit size, and what to multiply it by.

        The factor is [N, outputs, 1, 1], or None where nothing is brought back.
        """
        # halves of 16 bits would lose the sums of squares
        with torch.autocast(style.device.type, enabled=False):
            scales: Tensor = self.style(style.float())
            weight = self.weight * self.scale
            factor = _demodulation(scales, weight) if self.demodulate else None
        scaled = inputs * scales[:, :, None, None].to(inputs.dtype)
        if self.doubling:
            larger = conv_transpose2d(scaled, weight.transpose(0, 1), stride=2)
            return blurred(larger, 1, gain=4.0), factor
        return conv2d(scaled, weight, padding=weight.shape[2] // 2), factor


def _demodulation(scales: Tensor, weight: Tensor) -> Tensor:
    """1 / √Σ (s w)² of each output channel, [N, outputs, 1, 1]."""
    squares = weight.square().sum((2, 3))
    return (linear(scales.square(), squares) + EPSILON).rsqrt()[:, :, None, None]


class Styled(nn.Module):
    """A modulated convolution, noise of a learned strength, a bias and a leaky ReLU (figure 2c)."""

    def __init__(self, inputs: int, outputs: int, style: int, double: bool = False) -> None:
        super().__init__()
        self.convolution = Modulated(inputs, outputs, 3, style, double)
        self.strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """[N, inputs, H, W], w [N, style] and noise [N, 1, H', W'] → [N, outputs, H', W']."""
        maps, factor = self.convolution(inputs, style)
        assert factor is not None
        added = noise * (self.strength * GAIN) + (self.bias * GAIN)[:, None, None]
        whole = torch.addcmul(added.to(maps.dtype), maps, (factor * GAIN).to(maps.dtype))
        return leaky_relu(whole, SLOPE)


class Painted(nn.Module):
    """The picture that maps of one size make: a modulated convolution of 1×1 without demodulation."""

    def __init__(self, inputs: int, channels: int, style: int) -> None:
        super().__init__()
        self.convolution = Modulated(inputs, channels, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, inputs: Tensor, style: Tensor) -> Tensor:
        """[N, inputs, H, W] and w [N, style] → [N, channels, H, W]."""
        maps: Tensor = self.convolution(inputs, style)[0]
        return maps + self.bias.to(maps.dtype)[:, None, None]


def kernel(like: Tensor, gain: float) -> Tensor:
    """The filter for each channel of `like` [N, C, H, W], [C, 1, 4, 4], whose taps sum to `gain`."""
    taps = like.new_full((4,), TAPS[0])  # filled where it lies: a GPU would wait for each copy of constants
    taps[1:3].fill_(TAPS[1])
    square = torch.outer(taps, taps)
    return (square * (gain / square.sum())).expand(like.shape[1], 1, -1, -1)


def blurred(inputs: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """[N, C, H, W] under the filter, with `padding` zeros on every side: H + 2·padding − 3 high."""
    if inputs.is_cuda:
        return summed(inputs, padding, gain)
    return conv2d(inputs, kernel(inputs, gain), padding=padding, groups=inputs.shape[1])


def summed(inputs: Tensor, padding: int, gain: float, every: int = 1) -> Tensor:
    """The filter as sums of shifted maps, of which each `every`th pixel is kept.

    On an H200 StyleGAN2 trains so 1.5 times as fast as by a convolution for each channel (128 to 512 channels, 512
    rows of 32×32); on a CPU 0.8 times.
    """
    whole = pad(inputs, (padding,) * 4)
    for axis in (2, 3):
        length = whole.shape[axis] - len(TAPS) + 1
        one, two, three, four = (whole.narrow(axis, place, length) for place in range(len(TAPS)))
        whole = torch.add(one + four, two + three, alpha=TAPS[1])
        whole = whole if every == 1 else whole[(slice(None),) * axis + (slice(None, None, every),)]
    return whole * (gain / sum(TAPS) ** 2)


def halved(inputs: Tensor) -> Tensor:
    """[N, C, H, W] → [N, C, H // 2, W // 2], filtered."""
    if inputs.is_cuda:
        return summed(inputs, 1, 1.0, every=2)
    if inputs.dtype is torch.bfloat16 and inputs.device.type == "cpu":
        # there the gradient of a strided convolution by channels takes ten times as long as in 32 bits
        return blurred(inputs, 1)[:, :, ::2, ::2]
    return conv2d(inputs, kernel(inputs, 1.0), padding=1, stride=2, groups=inputs.shape[1])


def doubled(inputs: Tensor) -> Tensor:
    """[N, C, H, W] → [N, C, 2H, 2W], filtered: every pixel spreads over 4×4."""
    return conv_transpose2d(inputs, kernel(inputs, 4.0), padding=1, stride=2, groups=inputs.shape[1])


def deviation(inputs: Tensor, group: int = 4) -> Tensor:
    """`inputs` [N, C, H, W] and a channel of how much neighbouring rows differ (Karras et al. 2018, section 3).

    Neighbours are `group` rows that follow each other, or fewer, so that groups share the rows out evenly.
    """
    rows = len(inputs)
    size = next(size for size in range(min(group, rows), 0, -1) if rows % size == 0)
    grouped = inputs.float().view(rows // size, size, *inputs.shape[1:])
    variance = (grouped - grouped.mean(1, keepdim=True)).square().mean(1)
    spread = (variance + EPSILON).sqrt().flatten(1).mean(1)
    channel = spread.repeat_interleave(size)[:, None, None, None].expand(-1, 1, *inputs.shape[2:])
    return torch.cat([inputs, channel.to(inputs.dtype)], dim=1)


def normalized(inputs: Tensor) -> Tensor:
    """x / rms(x) over the last axis."""
    return inputs * (inputs.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
