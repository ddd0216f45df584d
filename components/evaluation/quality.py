"""How near a picture is to the one it should be: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

WINDOW, SPREAD = 11, 1.5
LEAST = 1.0 / 12.0
"""The squared error, in levels, that rounding to 8 bits leaves; no picture counts as nearer than that (58.9 dB)."""


def levels(data: Tensor) -> Tensor:
    """Values in [−1, 1] as levels 0 … 255, float64."""
    return data.double().add(1.0).mul(127.5)


def psnr(pictures: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """10 log₁₀(255² / mean squared error in levels) of each picture [N, C, H, W] in [−1, 1], in dB, [N].

    With `where` [N, 1, H, W] only the places where it is true count.
    """
    squares = (levels(pictures) - levels(truth)).square()
    if where is None:
        error = squares.flatten(1).mean(1)
    else:
        chosen = where.to(squares.dtype).expand_as(squares)
        error = (squares * chosen).flatten(1).sum(1) / chosen.flatten(1).sum(1).clamp(min=1)
    return 10 * torch.log10(255.0**2 / error.clamp(min=LEAST))


def window_of(shape: tuple[int, ...]) -> int:
    """The side of the window for pictures of `shape`: 11, or the largest odd number that fits."""
    side = min(WINDOW, *shape[1:])
    return side if side % 2 else side - 1


def ssim(pictures: Tensor, truth: Tensor) -> Tensor:
    """The mean structural similarity of each picture [N, C, H, W] in [−1, 1], [N], 1 for equal ones.

    Wang et al. 2004 (IEEE Transactions on Image Processing 13(4), equation 13): a Gaussian window of σ = 1.5,
    K₁ = 0.01, K₂ = 0.03, L = 255, every place where the window fits, each channel by itself.
    """
    size = window_of(tuple(pictures.shape[1:]))
    kernel = _gaussian(size)
    one, other = (levels(data).flatten(0, 1).unsqueeze(1) for data in (pictures, truth))

    def blurred(values: Tensor) -> Tensor:
        return conv2d(conv2d(values, kernel.view(1, 1, 1, size)), kernel.view(1, 1, size, 1))

    mean_one, mean_other = blurred(one), blurred(other)
    square_one = blurred(one.square()) - mean_one.square()
    square_other = blurred(other.square()) - mean_other.square()
    shared = blurred(one * other) - mean_one * mean_other
    first, second = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    light = (2 * mean_one * mean_other + first) / (mean_one.square() + mean_other.square() + first)
    structure = (2 * shared + second) / (square_one + square_other + second)
    return (light * structure).view(len(pictures), -1).mean(1)


def _gaussian(size: int) -> Tensor:
    """Weights [size] that sum to one."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = (-0.5 * (place / SPREAD).square()).exp()
    return weights / weights.sum()
