"""Pictures of any size by a model of one: overlapping tiles, whose results flow into each other without a seam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 4
"""Neighbours share a fourth of a tile's side; a model is least sure at the edge of what it sees."""


@dataclass(frozen=True)
class Tiling:
    """How a picture of `size` (height, width) is cut into tiles of the size `tile`; a smaller one is mirrored."""

    size: tuple[int, int]
    tile: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """The picture's size once it holds a tile."""
        return max(self.size[0], self.tile[0]), max(self.size[1], self.tile[1])

    @property
    def count(self) -> int:
        """How many tiles there are."""
        return math.prod(_count(whole, part) for whole, part in zip(self.padded, self.tile, strict=True))

    @property
    def places(self) -> list[tuple[int, int]]:
        """(top, left) of each tile in the padded picture, evenly apart, row by row."""
        tops, lefts = (_starts(whole, part) for whole, part in zip(self.padded, self.tile, strict=True))
        return [(top, left) for top in tops for left in lefts]

    def cut(self, picture: Tensor) -> Tensor:
        """The tiles [T, C, h, w] of `picture` [C, H, W]."""
        rows, columns = (_mirrored(*pair) for pair in zip(self.size, self.padded, strict=True))
        padded = picture[:, rows][:, :, columns]
        height, width = self.tile
        return torch.stack([padded[:, top : top + height, left : left + width] for top, left in self.places])

    def join(self, tiles: Tensor) -> Tensor:
        """The picture [C, H, W] of tiles [T, C, h, w], each of which fades out towards its neighbours."""
        height, width = self.tile
        fading = _ramp(height)[:, None] * _ramp(width)[None, :]
        total = tiles.new_zeros(tiles.shape[1], *self.padded)
        weight = tiles.new_zeros(self.padded)
        for tile, (top, left) in zip(tiles, self.places, strict=True):
            total[:, top : top + height, left : left + width] += tile * fading
            weight[top : top + height, left : left + width] += fading
        top, left = ((whole - own) // 2 for whole, own in zip(self.padded, self.size, strict=True))
        return (total / weight)[:, top : top + self.size[0], left : left + self.size[1]]


def _count(whole: int, part: int) -> int:
    """How many tiles of the length `part` a side takes."""
    return 1 + math.ceil((whole - part) / max(1, part - part // OVERLAP))


def _starts(whole: int, part: int) -> list[int]:
    """Where tiles of the length `part` begin, so that neighbours share at least their `OVERLAP`."""
    count = _count(whole, part)
    return [round(place * (whole - part) / max(1, count - 1)) for place in range(count)]


def _mirrored(size: int, padded: int) -> Tensor:
    """The index of each line of a padded side in the picture, which stands in the middle between its mirrors."""
    place = torch.arange(padded) - (padded - size) // 2
    period = max(1, 2 * (size - 1))
    place = place.remainder(period)
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)


def _ramp(side: int) -> Tensor:
    """The weight of each line of a tile [side]: 1 in the middle, smoothly towards 0 over the overlap."""
    reach = max(1, side // OVERLAP)
    place = torch.arange(side) + 0.5
    near = torch.minimum(place, side - place).clamp(max=reach) / reach
    return torch.sin(near * math.pi / 2).square()
