"""Random changes of place: matrices [N, 3, 3] that say where each pixel comes from, and resampling."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


class Draw:
    """Random numbers for `rows` rows, and the choice of the rows that take them, each with `probability`."""

    def __init__(self, rows: int, probability: Tensor) -> None:
        self.rows, self.probability, self.device = rows, probability, probability.device

    def uniform(self, low: float, high: float) -> Tensor:
        """[N] in [low, high)."""
        return torch.rand(self.rows, device=self.device) * (high - low) + low

    def normal(self) -> Tensor:
        """[N], standard normal."""
        return torch.randn(self.rows, device=self.device)

    def whole(self, count: int) -> Tensor:
        """[N] whole numbers below `count`, as floats."""
        return (torch.rand(self.rows, device=self.device) * count).floor()

    def coin(self) -> Tensor:
        """[N], true in half of the rows."""
        return torch.rand(self.rows, device=self.device) < 0.5

    def chosen(self, values: Tensor, neutral: float, probability: Tensor | None = None) -> Tensor:
        """`values` [N] in some rows, `neutral` in the others."""
        return self.together((values,), neutral, probability)[0]

    def together(
        self, values: tuple[Tensor, ...], neutral: float, probability: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Each of `values` [N] in the same rows, `neutral` in the others."""
        likely = self.probability if probability is None else probability
        taken = torch.rand(self.rows, device=self.device) < likely
        return tuple(torch.where(taken, value, neutral) for value in values)


def _matrix(entries: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in entries], dim=1)


def scaling(across: Tensor, down: Tensor) -> Tensor:
    """[N] and [N] → [N, 3, 3]."""
    return torch.diag_embed(torch.stack([across, down, torch.ones_like(down)], dim=1))


def rotation(angle: Tensor) -> Tensor:
    """Radians [N] → [N, 3, 3]; quarter turns are exact."""
    quarters = angle / (math.pi / 2)
    exact = quarters == quarters.round()
    cosine = torch.where(exact, angle.cos().round(), angle.cos())
    sine = torch.where(exact, angle.sin().round(), angle.sin())
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    return _matrix([[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one]])


def shift(across: Tensor, down: Tensor) -> Tensor:
    """Pixels [N] and [N] → [N, 3, 3]."""
    zero, one = torch.zeros_like(across), torch.ones_like(across)
    return _matrix([[one, zero, across], [zero, one, down], [zero, zero, one]])


def warped(pictures: Tensor, matrix: Tensor) -> Tensor:
    """Each of [N, C, H, W] resampled where its [N, 3, 3] says; the identity copies."""
    height, width = pictures.shape[2:]
    # grids reach from −1 to 1 on both axes, whatever the sides are
    sides = matrix.new_ones(3)
    sides[0].fill_(width / 2.0)
    sides[1].fill_(height / 2.0)
    relative = matrix * sides / sides[:, None]
    grid = affine_grid(relative[:, :2], list(pictures.shape), align_corners=False)
    moved = grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    still = (matrix == torch.eye(3, device=matrix.device)).flatten(1).all(1)
    return torch.where(still[:, None, None, None], pictures, moved)
