"""How a source is made of a picture: noise, a hole, fewer pixels, no colour; the same draw gives the same source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from components.errors import UserError
from components.families.sampling import noise, uniform

Spoiling = Literal["noise", "mask", "shrink", "grey", "unpaired", "pairs"]
LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in a grey level (ITU-R BT.601), as Pillow has them."""
TOP, LEFT, STRENGTH = 11, 12, 13
"""What tells the draws of one row apart."""


@dataclass(frozen=True)
class Corruption:
    """How `source` comes to be beside `data`.

    `amount` is the deviation of noise in levels of 255, the share of each side that a hole takes, or the factor by
    which a picture is shrunk. Of the kinds `unpaired` and `pairs` the source is a picture of the dataset's own.
    """

    kind: Spoiling
    amount: float = 0.0

    def shape(self, data: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [Cs, H, W] of the source of pictures of the shape `data` [C, H, W]."""
        channels, *sides = data
        return ({"mask": channels + 1, "grey": 1}.get(self.kind, channels), *sides)

    def of(self, data: Tensor, draw: Tensor) -> Tensor:
        """The source [N, Cs, H, W] of clean pictures `data` [N, C, H, W] in [−1, 1], decided by `draw` int64 [N].

        Noise is not clipped, as the benchmarks of denoising have it (Zhang et al. 2017, section IV).
        """
        if self.kind == "noise":
            scale = self.amount / 127.5
            return noise(draw, torch.full_like(draw, STRENGTH), tuple(data.shape[1:])).mul_(scale).add_(data)
        if self.kind == "mask":
            return masked(data, holes(draw, (data.shape[2], data.shape[3]), self.amount))
        if self.kind == "shrink":
            return enlarged(shrunk(data, round(self.amount)), round(self.amount))
        assert self.kind == "grey", f"the source of the kind {self.kind} is not made of data"
        return grey(data)

    def given(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        """The source [Cs, H, W] for a person's own `picture` [C, h, w] in [−1, 1], which is not spoilt further.

        A picture to be enlarged is small: its sides times the factor are those of the source. `mask` [1, H, W] is 1
        where something is wanted. Raises `UserError` for a hole without a mask, or a mask of another size.
        """
        if self.kind == "shrink":
            return enlarged(picture[None], round(self.amount))[0]
        if self.kind == "grey":
            return grey(picture[None])[0]
        if self.kind != "mask":
            return picture
        if mask is None:
            raise UserError(
                "This model fills holes and the request has no mask; send one that marks the hole."
            )
        if mask.shape[-2:] != picture.shape[-2:]:
            sizes = [f"{found.shape[-1]}x{found.shape[-2]}" for found in (mask, picture)]
            raise UserError(
                f"The mask is {sizes[0]} and the picture {sizes[1]}; send a mask of the same size."
            )
        return masked(picture[None], mask[None])[0]


def holes(draw: Tensor, size: tuple[int, int], share: float) -> Tensor:
    """Masks [N, 1, H, W]: 1 in a rectangle of `share` of both sides, at a place that the draw decides."""
    inside = []
    for side, salt in zip(size, (TOP, LEFT), strict=True):
        long = min(side, max(1, round(side * share)))
        first = (uniform(draw, torch.full_like(draw, salt)) * (side - long + 1)).long()[:, None]
        place = torch.arange(side)
        inside.append((place >= first) & (place < first + long))
    rows, columns = inside
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()


def masked(data: Tensor, mask: Tensor) -> Tensor:
    """Pictures [N, C, H, W] with 0 in the hole, and behind them the mask [N, 1, H, W]: 1 in the hole, −1 elsewhere."""
    hole = mask > 0.5
    return torch.cat([data.masked_fill(hole, 0.0), hole.to(data.dtype) * 2 - 1], dim=1)


def shrunk(data: Tensor, factor: int) -> Tensor:
    """Pictures [N, C, H, W] with `factor` times fewer pixels a side, bicubic and smoothed before, in [−1, 1]."""
    size = (data.shape[2] // factor, data.shape[3] // factor)
    small = functional.interpolate(data, size, mode="bicubic", align_corners=False, antialias=True)
    return small.clamp(-1.0, 1.0)


def enlarged(data: Tensor, factor: int) -> Tensor:
    """Pictures [N, C, h, w] with `factor` times more pixels a side, bicubic, in [−1, 1]."""
    size = (data.shape[2] * factor, data.shape[3] * factor)
    large = functional.interpolate(data, size, mode="bicubic", align_corners=False)
    return large.clamp(-1.0, 1.0)


def grey(data: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] as grey ones [N, 1, H, W]; grey ones stay as they are."""
    if data.shape[1] == 1:
        return data
    weights = torch.tensor(LUMA, dtype=data.dtype, device=data.device).view(1, 3, 1, 1)
    return (data * weights).sum(1, keepdim=True)
