"""How a class enters the networks of a picture: batch norm by class, and the projection discriminator's head."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassNorm(nn.Module):
    """Batch norm whose gain and bias depend on the class (de Vries et al. 2017; Dumoulin et al. 2017)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain, self.bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, inputs: Tensor, label: Tensor) -> Tensor:
        """[N, C, H, W] and classes [N] → [N, C, H, W]."""
        normed: Tensor = self.norm(inputs)
        gain, bias = (each(label)[:, :, None, None].to(normed.dtype) for each in (self.gain, self.bias))
        return torch.addcmul(bias, normed, gain)


class Projection(nn.Module):
    """⟨embedding of the class, φ⟩ + linear(φ) (Miyato & Koyama 2018, arXiv:1802.05637, equation 4), in float32."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.embedding = nn.Embedding(classes, features)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, features: Tensor, label: Tensor) -> Tensor:
        """φ [N, features] and classes [N] → logits [N]."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            free: Tensor = self.linear(features).squeeze(1)
            own: Tensor = (self.embedding(label) * features).sum(1)
            return free + own
