"""The residual perceptron that encodes and decodes flat rows."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import gelu


class Residual(nn.Module):
    """x + W₂ gelu(W₁ norm(x)), of one width; the second layer starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width] → [N, width]."""
        update: Tensor = self.outer(gelu(self.inner(self.norm(inputs))))
        return inputs + update


def perceptron(inputs: int, outputs: int, width: int, depth: int) -> nn.Sequential:
    """inputs → width, `depth` residual blocks, → outputs."""
    blocks = [Residual(width) for _ in range(depth)]
    return nn.Sequential(nn.Linear(inputs, width), *blocks, nn.LayerNorm(width), nn.Linear(width, outputs))
