"""The diffusion transformer (Peebles & Xie 2023, arXiv:2212.09748) with adaLN-Zero blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pixel_shuffle, pixel_unshuffle

from components.families.layers.mixing import Context, Mixing


class DiTBlock(nn.Module):
    """Attention, then a perceptron; the condition scales, shifts and gates both (section 3.2, adaLN-Zero)."""

    def __init__(self, width: int, signal: int, context: int) -> None:
        super().__init__()
        self.mixing = Mixing(width, context, zero=False)
        self.inner, self.outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = zeroed(nn.Linear(signal, 6 * width))

    def forward(self, tokens: Tensor, signal: Tensor, context: Context | None) -> Tensor:
        """[N,L,width] → the same."""
        parts = self.modulation(signal)[:, None].chunk(6, 2)
        tokens = tokens + parts[2] * self.mixing(modulated(tokens, parts[0], parts[1]), context)
        hidden = self.inner(modulated(tokens, parts[3], parts[4]))
        output: Tensor = tokens + parts[5] * self.outer(gelu(hidden, approximate="tanh"))
        return output


class DiT(nn.Module):
    """Patches of `patch`² pixels are the tokens of `depth` blocks of `width`; their places are learned."""

    def __init__(
        self,
        inputs: int,
        data: tuple[int, ...],
        signal: int,
        context: int,
        *,
        width: int,
        depth: int,
        patch: int,
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, (data[1] // patch, data[2] // patch)
        self.enter = nn.Linear(inputs * patch**2, width)
        self.place_embedding = nn.Parameter(torch.randn(self.grid[0] * self.grid[1], width) * 0.5)
        self.blocks = nn.ModuleList(DiTBlock(width, signal, context) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(signal, 2 * width))
        self.leave = zeroed(nn.Linear(width, data[0] * patch**2))

    def forward(self, pictures: Tensor, signal: Tensor, context: Context | None) -> Tensor:
        """[N, inputs, H, W], the condition [N, signal] and a caption's words → [N, C, H, W]."""
        patches = pixel_unshuffle(pictures, self.patch).flatten(2).transpose(1, 2)
        tokens = self.enter(patches) + self.place_embedding
        for block in self.blocks:
            tokens = block(tokens, signal, context)
        scale, shift = self.modulation(signal)[:, None].chunk(2, 2)
        output: Tensor = self.leave(modulated(tokens, scale, shift))
        return pixel_shuffle(output.transpose(1, 2).reshape(len(output), -1, *self.grid), self.patch)


def modulated(tokens: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """The layer norm of `tokens` [N,L,width], scaled and shifted row by row ([N,1,width])."""
    return torch.addcmul(shift, layer_norm(tokens, tokens.shape[-1:]), 1 + scale)


def zeroed(linear: nn.Linear) -> nn.Linear:
    """`linear` with weights of zero, so that what it gates begins as nothing."""
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
