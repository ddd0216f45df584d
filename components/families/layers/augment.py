"""Adaptive discriminator augmentation (Karras et al. 2020b, arXiv:2006.06676): for GANs of few pictures.

Both real and generated pictures go through the same random, differentiable changes before the discriminator sees
them. As every change is made with a probability of at most 0.8, which the paper found safe (section 3.1), the generator
does not learn to make changed pictures.
A gradient penalty has to be taken at the changed pictures: torch has no second derivative of `grid_sample`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from components.families.layers.geometry import Draw, rotation, scaling, shift, warped

MOST = 0.8
"""The highest probability: where a change is nearly always made, nobody can tell that it is one."""
MEMORY = 0.05
"""The weight of a step in the running mean of the discriminator's signs; the paper looks at four minibatches."""


class Augment(nn.Module):
    """Random changes of pictures, whose `probability` follows how much the discriminator overfits (section 3.1).

    The measure is r = E[sign(D(real))], equation 1: 0 where nothing is learned by heart, 1 where all is. Above `target`
    the probability rises, below it falls, by 1 over `ramp` pictures that a worker sees. Both are float buffers, so a
    checkpoint holds them and workers share their means.
    """

    probability: Tensor
    sign: Tensor

    def __init__(self, target: float = 0.6, ramp: float = 500_000.0) -> None:
        super().__init__()
        self.target, self.ramp = target, ramp
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("sign", torch.zeros(()))

    def forward(self, pictures: Tensor) -> Tensor:
        """[N, C, H, W] in [−1, 1] → the same, each changed in its own way; in evaluation nothing is."""
        return augmented(pictures, self.probability) if self.training else pictures

    @torch.no_grad()
    def adjust(self, real_logits: Tensor) -> None:
        """Take the discriminator's opinion of real pictures, [N], and move the probability."""
        self.sign.lerp_(real_logits.float().sign().mean(), MEMORY)
        step = torch.sign(self.sign - self.target) * (len(real_logits) / self.ramp)
        self.probability.add_(step).clamp_(0.0, MOST)


def augmented(pictures: Tensor, probability: Tensor) -> Tensor:
    """Pixel blitting, geometric and colour changes (appendix B, the set `bgc`), each with `probability` [].

    A row [C, H, W] without any change stays as it is to the bit. Geometry is resampled bilinearly, with mirrored edges.
    """
    with torch.autocast(pictures.device.type, enabled=False):
        whole = pictures.float()
        geometry = geometric(len(whole), whole.shape[2:], probability)
        moved = warped(whole, geometry)
        return _recoloured(moved, *colouring(len(whole), whole.shape[1], probability))


def geometric(rows: int, size: tuple[int, ...], probability: Tensor) -> Tensor:
    """Where each pixel of the result comes from, [N, 3, 3], in pixels from the middle of [H, W] = `size`."""
    draw = Draw(rows, probability)
    height, width = size
    one = torch.ones(rows, device=probability.device)
    flip = torch.where(draw.coin(), -one, one)
    matrix = scaling(draw.chosen(flip, 1.0), one)
    matrix = matrix @ rotation(draw.chosen(draw.whole(4) * (math.pi / 2), 0.0))
    step = (draw.uniform(-0.125, 0.125) * width).round(), (draw.uniform(-0.125, 0.125) * height).round()
    matrix = matrix @ shift(*draw.together(step, 0.0))
    factor = draw.chosen(torch.exp2(0.2 * draw.normal()), 1.0)
    matrix = matrix @ scaling(factor, factor)
    # two rotations around the stretching, so that either comes with less than the whole probability (appendix B)
    each = 1.0 - (1.0 - probability).clamp(min=0.0).sqrt()
    matrix = matrix @ rotation(draw.chosen(draw.uniform(-math.pi, math.pi), 0.0, each))
    stretch = draw.chosen(torch.exp2(0.2 * draw.normal()), 1.0)
    matrix = matrix @ scaling(stretch, 1.0 / stretch)
    matrix = matrix @ rotation(draw.chosen(draw.uniform(-math.pi, math.pi), 0.0, each))
    step = 0.125 * draw.normal() * width, 0.125 * draw.normal() * height
    return matrix @ shift(*draw.together(step, 0.0))


def colouring(rows: int, channels: int, probability: Tensor) -> tuple[Tensor, Tensor]:
    """What the channels are multiplied by, [N, C, C], and what is added to all of them, [N, 1, 1].

    Brightness, contrast, luma flip, hue and saturation; hue turns three channels around their common axis, and
    saturation does nothing to a single one.
    """
    draw = Draw(rows, probability)
    device = probability.device
    identity = torch.eye(channels, device=device).expand(rows, -1, -1)
    grey = torch.full((channels, channels), 1.0 / channels, device=device)
    brightness = draw.chosen(0.2 * draw.normal(), 0.0)
    contrast = draw.chosen(torch.exp2(0.5 * draw.normal()), 1.0)
    inverse = draw.chosen(draw.coin().float(), 0.0)[:, None, None]
    matrix = contrast[:, None, None] * (identity - 2.0 * inverse * grey)
    if channels == 3:
        matrix = _hue(draw.chosen(draw.uniform(-math.pi, math.pi), 0.0)) @ matrix
    saturation = draw.chosen(torch.exp2(draw.normal()), 1.0)[:, None, None]
    matrix = (saturation * identity + (1.0 - saturation) * grey) @ matrix
    # brightness comes before the contrast, and a flip of the luma turns it too
    added = brightness * contrast * (1.0 - 2.0 * inverse[:, 0, 0])
    return matrix, added[:, None, None]


def _hue(angle: Tensor) -> Tensor:
    """The rotation of three channels around (1, 1, 1) by radians [N], [N, 3, 3] (Rodrigues' formula)."""
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None] / math.sqrt(3.0)
    identity, grey = torch.eye(3, device=angle.device), angle.new_full((3, 3), 1.0 / 3.0)
    turn = identity.roll(1, 0) - identity.roll(1, 1)
    return cosine * identity + sine * turn + (1.0 - cosine) * grey


def _recoloured(pictures: Tensor, matrix: Tensor, added: Tensor) -> Tensor:
    """Each of [N, C, H, W] with its channels mixed by [N, C, C] and [N, 1, 1] added; the identity copies."""
    mixed = torch.baddbmm(added, matrix, pictures.flatten(2)).view_as(pictures)
    same = (matrix == torch.eye(matrix.shape[1], device=matrix.device)).flatten(1).all(1) & (
        added.flatten() == 0
    )
    return torch.where(same[:, None, None, None], pictures, mixed)
