"""Changes of training pictures that a denoiser is told (Karras et al. 2022, appendix F.2), so that samples have none.

Few pictures are seen often, and a large network learns them by heart. Changed ones are more; and because what was done
stands in the condition, with zeros for nothing, the network tells them from what the data are like.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from components.families.layers.geometry import Draw, rotation, scaling, shift, warped

TOLD = 9
"""Numbers that say what was done to a picture (table 6)."""
SPREAD, REACH = math.log(2.0) * 0.2, 0.125
"""Of a factor's logarithm for each unit drawn, and of a shift as a part of the side."""


def changed(pictures: Tensor, likely: float) -> tuple[Tensor, Tensor]:
    """[N, C, H, W] → each with every change as `likely` as that, and what was done to it, [N, 9].

    Mirrored across, mirrored down, larger or smaller, turned, stretched along an axis, moved. The paper mirrors
    half of all pictures across; here it is as rare as the rest, as letters and digits have a side. A picture to which
    nothing was done stays as it is to the bit.
    """
    with torch.autocast(pictures.device.type, enabled=False):
        matrix, told = drawn(len(pictures), pictures.shape[2:], torch.tensor(likely, device=pictures.device))
        return warped(pictures.float(), matrix), told


def drawn(rows: int, size: tuple[int, ...], likely: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, [N, 3, 3], in pixels from the middle of [H, W] = `size`; what is told, [N, 9]."""
    draw = Draw(rows, likely)
    height, width = size
    across, down = (draw.chosen(draw.coin().float(), 0.0) for _ in range(2))
    zoom = draw.chosen(draw.normal(), 0.0)
    turn = draw.chosen(draw.uniform(-math.pi, math.pi), 0.0)
    axis, stretch = draw.together((draw.uniform(-math.pi, math.pi), draw.normal()), 0.0)
    right, below = draw.together((draw.normal(), draw.normal()), 0.0)
    larger, longer = torch.exp(-SPREAD * zoom), torch.exp(-SPREAD * stretch)
    matrix = scaling(1.0 - 2.0 * across, 1.0 - 2.0 * down) @ scaling(larger, larger) @ rotation(-turn)
    # turned so that the axis lies across, stretched, and turned back
    matrix = matrix @ rotation(axis) @ scaling(longer, 1.0 / longer) @ rotation(-axis)
    matrix = matrix @ shift(-REACH * width * right, -REACH * height * below)
    # of twice the angle: by the angle itself, as in the paper, what is stretched and what is pressed are told alike
    along = stretch * (2.0 * axis).cos(), stretch * (2.0 * axis).sin()
    told = (across, down, zoom, turn.cos() - 1.0, turn.sin(), *along, right, below)
    return matrix, torch.stack(told, dim=1)
