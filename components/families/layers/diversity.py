"""How different generated rows are: a loss that seeks modes, and a number that shows their loss."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5
SPREAD_ROWS = 64
"""The most rows of a batch whose distances are taken: 2,016 pairs, which cost little beside any network."""


def mode_seeking(one: Tensor, other: Tensor, one_latent: Tensor, other_latent: Tensor) -> Tensor:
    """The mode-seeking loss of Mao et al. 2019 (arXiv:1903.05628, equation 2), a scalar of at least 0.

    `one` and `other` [N, …] were made from the latents [N, L], row by row under the same condition. The paper
    maximises d(G(z₁), G(z₂)) / d(z₁, z₂); as in its experiments d is the mean absolute difference, and what is
    minimised is one over the ratio, which pulls the harder the nearer to a collapse the generator is.
    """
    made = (one - other).float().abs().flatten(1).mean(1)
    asked = (one_latent - other_latent).float().abs().flatten(1).mean(1)
    return 1.0 / ((made / asked.clamp(min=EPSILON)).mean() + EPSILON)


@torch.no_grad()
def spread(fake: Tensor, real: Tensor, label: Tensor | None = None) -> Tensor:
    """The mean distance between two generated rows over that between two real ones, a scalar; 1: as the data.

    `fake` and `real` are [N, …]. With the `label` [N] of both, only pairs of one class count, because samples of
    different classes are far apart even where each class has collapsed onto one; where no class has two rows, all do.
    """
    fake, real = fake[:SPREAD_ROWS].float().flatten(1), real[:SPREAD_ROWS].float().flatten(1)
    pairs = torch.ones(len(fake), len(fake), device=fake.device).tril(-1)
    if label is not None:
        label = label[:SPREAD_ROWS]
        own = pairs * (label[:, None] == label)
        pairs = torch.where(own.any(), own, pairs)
    with torch.autocast(fake.device.type, enabled=False):
        made, given = (torch.cdist(rows, rows).mul(pairs).sum() for rows in (fake, real))
    return (made + EPSILON) / (given + EPSILON)
