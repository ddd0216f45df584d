"""Does a model repeat what it was trained on: samples with the train rows nearest to them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from components.families.family import Batch
from components.modalities.image import grid

SHOWN = 8
NEAREST = 5


def nearest(samples: Tensor, train: Iterable[Batch]) -> Tensor:
    """The train rows nearest to each of `samples` [S, C, H, W] by distance of pixels, [S, 5, C, H, W].

    Fewer than 5 if there are fewer train rows; the nearest comes first.
    """
    shape = samples.shape[1:]
    kept = torch.empty(len(samples), 0, *shape)
    for batch in train:
        candidates = torch.cat([kept, batch.data.expand(len(samples), *batch.data.shape)], 1)
        distances = (candidates - samples.unsqueeze(1)).flatten(2).square().sum(2)
        order = distances.topk(min(NEAREST, candidates.shape[1]), largest=False).indices
        kept = torch.stack([row[places] for row, places in zip(candidates, order, strict=True)])
    return kept


def nearest_picture(samples: Tensor, train: Iterable[Batch], target: int = 56) -> bytes:
    """A PNG: a line for each of the first 8 samples, which stands left of its nearest train rows.

    Each side is enlarged to about `target` pixels.
    """
    shown = samples[:SHOWN]
    gap = torch.zeros_like(shown).unsqueeze(1)
    lines = torch.cat([shown.unsqueeze(1), gap, nearest(shown, train)], 1)
    return grid(lines.flatten(0, 1), columns=lines.shape[1], target=target)
