"""What a denoiser is told beside the picture: its noise level, a class, a caption."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from components.families.family import NOTHING
from components.families.layers.mixing import Context, Mixing

WAVES = 32
"""Frequencies by which a noise level is told."""


def check_guidance(guidance: float, drop: float) -> None:
    """Raise ValueError for guidance away from an estimate without the condition that no training makes."""
    if guidance != 1 and not drop:
        raise ValueError(
            f"guidance = {guidance:g} weighs the condition against none, which drop = 0 never trains; set drop to 0.1, "
            "or guidance to 1"
        )


class Caption(nn.Module):
    """A small encoder of a caption's words: two blocks of attention over all of them.

    A token of its own stands in front. It sums the caption up, and it is all that there is without one, so that
    attention always finds something.
    """

    def __init__(self, length: int, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.place_embedding = nn.Parameter(torch.randn(1 + length, width) * 0.5)
        self.blocks = nn.ModuleList(Words(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, prompt: Tensor) -> Context:
        """Tokens [N,P], padded with `NOTHING` → what is known of each, and in front of all of them."""
        words = self.embedding(prompt.clamp(min=0))
        front = torch.zeros_like(words[:, :1])
        hidden = torch.cat((front, words), 1) + self.place_embedding[: 1 + prompt.shape[1]]
        exists = torch.cat((torch.ones_like(prompt[:, :1], dtype=torch.bool), prompt != NOTHING), 1)
        for block in self.blocks:
            hidden = block(hidden, exists)
        return Context(self.norm(hidden), exists)


class Words(nn.Module):
    """Attention among the words that exist, then a perceptron for each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixing = Mixing(width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden: Tensor, exists: Tensor) -> Tensor:
        """[N,L,width] → the same; `exists` is bool [N,L]."""
        hidden = hidden + self.mixing(self.first(hidden), seen=exists)
        output: Tensor = hidden + self.outer(gelu(self.inner(self.second(hidden))))
        return output


class Condition(nn.Module):
    """Noise level, class and caption as one vector of `width` numbers, and the caption's words beside it.

    With `told` so many numbers say what was done to a picture of training.
    """

    def __init__(self, width: int, classes: int, prompt: tuple[int, int] | None, told: int = 0) -> None:
        super().__init__()
        frequencies = 2 * math.pi * torch.logspace(-4, 3, WAVES, base=2.0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.frequencies: Tensor
        self.inner, self.outer = nn.Linear(2 * WAVES, width), nn.Linear(width, width)
        # the last row stands for no class
        self.class_embedding = nn.Embedding(classes + 1, width) if classes else None
        self.caption = Caption(*prompt, width) if prompt else None
        self.change = nn.Linear(told, width, bias=False) if told else None

    def forward(
        self, level: Tensor, label: Tensor | None, prompt: Tensor | None, change: Tensor | None = None
    ) -> tuple[Tensor, Context | None]:
        """Levels [N], labels [N] and prompts [N,P], in which `NOTHING` is nothing → [N,width] and the words.

        `change` [N,told] is what was done to the pictures; None, as in sampling, is nothing.
        """
        angles = level[:, None] * self.frequencies
        hidden = self.inner(torch.cat((angles.cos(), angles.sin()), 1))
        if self.change is not None and change is not None:
            hidden = hidden + self.change(change)
        signal = self.outer(silu(hidden))
        if self.class_embedding is not None:
            assert label is not None
            signal = signal + self.class_embedding(
                torch.where(label < 0, self.class_embedding.num_embeddings - 1, label)
            )
        if self.caption is None:
            return silu(signal), None
        assert prompt is not None
        words = self.caption(prompt)
        return silu(signal + words.tokens[:, 0]), words
