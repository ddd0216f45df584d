"""Encoders and decoders that keep a grid, in one or two dimensions: strided convolutions and residual blocks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import relu

CONVOLUTION: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
}


class StridedResidual(nn.Module):
    """x + W₂ relu(W₁ relu(x)), of sizes 3 and 1 (van den Oord et al. 2017, section 4.1); W₂ starts at zero."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.inner = CONVOLUTION[dims](width, width, 3, padding=1)
        self.outer = CONVOLUTION[dims](width, width, 1)
        nn.init.zeros_(self.outer.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """[N, width, *grid] → the same."""
        update: Tensor = self.outer(relu(self.inner(relu(inputs))))
        return inputs + update


def shrinker(dims: int, inputs: int, outputs: int, width: int, halvings: int, depth: int) -> nn.Sequential:
    """[N, inputs, *sides] → [N, outputs, *sides / 2^halvings]."""
    convolution = CONVOLUTION[dims]
    layers: list[nn.Module] = [convolution(inputs, width, 3, padding=1)] if not halvings else []
    for number in range(halvings):
        layers += [convolution(width if number else inputs, width, 4, 2, 1), nn.ReLU()]
    layers += [StridedResidual(dims, width) for _ in range(depth)]
    return nn.Sequential(*layers, nn.ReLU(), convolution(width, outputs, 1))


def stretcher(dims: int, inputs: int, outputs: int, width: int, halvings: int, depth: int) -> nn.Sequential:
    """[N, inputs, *grid] → [N, outputs, *grid · 2^halvings]."""
    layers: list[nn.Module] = [CONVOLUTION[dims](inputs, width, 3, padding=1)]
    layers += [StridedResidual(dims, width) for _ in range(depth)]
    for left in reversed(range(halvings)):
        layers += [nn.ReLU(), TRANSPOSED[dims](width, width if left else outputs, 4, 2, 1)]
    if not halvings:
        layers += [nn.ReLU(), CONVOLUTION[dims](width, outputs, 1)]
    return nn.Sequential(*layers)
