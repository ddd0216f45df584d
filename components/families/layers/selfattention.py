"""Self-attention between the places of a picture (Zhang et al. 2019, arXiv:1805.08318, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from components.families.layers.spectral import spectral


class SelfAttention(nn.Module):
    """x + γ · attention(x), with γ = 0 at first, so that the network starts from what lies near.

    Queries and keys have an eighth of the channels and values half of them; keys and values are of a picture of
    half the side, as in the authors' code, which pools by maximum. All four maps are 1×1 convolutions under
    spectral norm.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, half = max(1, channels // 8), max(1, channels // 2)
        self.query, self.key, self.value = (
            spectral(nn.Conv2d(channels, outputs, 1, bias=False)) for outputs in (narrow, narrow, half)
        )
        self.back = spectral(nn.Conv2d(half, channels, 1, bias=False))
        self.gain = nn.Parameter(torch.zeros(()))

    def map(self, inputs: Tensor) -> Tensor:
        """How much each place looks at each pooled one: [N, C, H, W] → [N, H·W, (H/2)·(W/2)], rows sum to 1."""
        query, key = self.query(inputs).flatten(2), self.key(_pooled(inputs)).flatten(2)
        return torch.bmm(query.transpose(1, 2), key).float().softmax(2)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, C, H, W] → [N, C, H, W]."""
        value = self.value(_pooled(inputs)).flatten(2)
        seen = torch.bmm(value, self.map(inputs).to(value.dtype).transpose(1, 2))
        update: Tensor = self.back(seen.view(*seen.shape[:2], *inputs.shape[2:]))
        return inputs + self.gain * update


def _pooled(inputs: Tensor) -> Tensor:
    """[N, C, H, W] → [N, C, H/2, W/2], odd sides rounded up."""
    return avg_pool2d(inputs, 2, ceil_mode=True)
