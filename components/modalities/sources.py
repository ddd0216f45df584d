"""What a person sees of the source of a picture."""

from __future__ import annotations

import torch
from torch import Tensor

from components.modalities.corruption import grey


def shown(source: Tensor, channels: int) -> Tensor:
    """Sources [N, Cs, H, W] as pictures [N, channels, H, W] in [−1, 1]: no mask, grey as colour, colour as grey."""
    if source.shape[1] == 1:
        source = source.expand(-1, channels, -1, -1)
    elif channels == 1 and source.shape[1] == 3:
        source = grey(source)
    return source[:, :channels].clamp(-1.0, 1.0)


def beside(source: Tensor, output: Tensor) -> Tensor:
    """Each source followed by its result [N, C, H, W], [2·N, C, H, W]."""
    pairs = torch.stack([shown(source, output.shape[1]).to(output.device), output], 1)
    return pairs.flatten(0, 1)
