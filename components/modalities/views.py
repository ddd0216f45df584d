"""Which part of a stored picture a step sees, and turned how; the middle, upright, where nothing is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.families.sampling import uniform

ROW, COLUMN, MIRROR, TURN = 1, 2, 3, 4
"""What tells the draws of one row apart."""


@dataclass(frozen=True)
class View:
    """`crop` is the side of a square window, 0 for the whole picture; flips are left to right, turns right angles."""

    crop: int = 0
    flip: bool = False
    rotate: bool = False

    @property
    def random(self) -> bool:
        """Whether two steps may see the same picture differently."""
        return bool(self.crop) or self.flip or self.rotate

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The shape [C, S, S] of what a step sees of pictures stored as [C, H, W]."""
        return (stored[0], self.crop, self.crop) if self.crop else stored

    def of(self, pictures: Tensor, draw: Tensor | None) -> Tensor:
        """The window of each of `pictures` [N, C, H, W] that `draw` int64 [N] decides; without it, the middle."""
        if self.crop:
            pictures = _windows(pictures, self.crop, draw)
        if draw is None:
            return pictures
        if self.flip:
            mirrored = _chance(draw, MIRROR, 2).bool().view(-1, 1, 1, 1)
            pictures = torch.where(mirrored, pictures.flip(3), pictures)
        return _turned(pictures, _chance(draw, TURN, 4)) if self.rotate else pictures


WHOLE = View()
"""The whole picture, upright, every time."""


def _chance(draw: Tensor, salt: int, count: int) -> Tensor:
    """One of `count` numbers a row, int64 [N]."""
    return (uniform(draw, torch.full_like(draw, salt)) * count).long()


def _windows(pictures: Tensor, side: int, draw: Tensor | None) -> Tensor:
    """A window of `side`×`side` of each picture."""
    rooms = (pictures.shape[2] - side, pictures.shape[3] - side)
    if draw is None:
        top, left = (room // 2 for room in rooms)
        return pictures[:, :, top : top + side, left : left + side]
    tops, lefts = (_chance(draw, salt, room + 1) for salt, room in zip((ROW, COLUMN), rooms, strict=True))
    places = zip(pictures, tops.tolist(), lefts.tolist(), strict=True)
    return torch.stack([picture[:, top : top + side, left : left + side] for picture, top, left in places])


def _turned(pictures: Tensor, turns: Tensor) -> Tensor:
    """Square pictures turned by as many right angles as `turns` [N] says."""
    found = pictures.clone()
    for quarter in (1, 2, 3):
        rows = turns == quarter
        found[rows] = pictures[rows].rot90(quarter, (2, 3))
    return found
