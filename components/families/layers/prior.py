"""The autoregressive prior of a row of codes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from components.families.family import NOTHING
from components.families.layers.attention import Block, initialise, rotations, swiglu_width
from components.families.layers.norm import RMSNorm
from components.families.layers.views import Stepping, View, Whole, empty_cache

THETA = 10_000.0
"""The base of the rotary positions."""


class Prior(nn.Module):
    """A causal transformer over the codes of a row, which begins with a token of its class, or of its own.

    A row of classes whose label is `NOTHING` begins with one more token, for none of them.
    """

    rotation: Tensor

    def __init__(
        self, places: int, codes: int, classes: int, width: int, heads: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.codes, self.classes, self.places, self.heads = codes, classes, places, heads
        self.embedding = nn.Embedding(codes + 1 + classes, width)
        self.place = nn.Embedding(places, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, heads, swiglu_width(width), qk_norm=True, dropout=dropout)
            for _ in range(layers)
        )
        self.norm, self.head = RMSNorm(width), nn.Linear(width, codes)
        self.register_buffer("rotation", rotations(places, width // heads, THETA), persistent=False)
        initialise(self)

    def begin(self, label: Tensor | None, rows: int) -> Tensor:
        """The token before the first code, [N]; without classes `label` is not looked at."""
        if self.classes:
            assert label is not None, "each row has a class, or the first one would be drawn"
            return torch.where(label == NOTHING, self.classes, label) + self.codes
        return torch.full((rows,), self.codes, device=self.rotation.device)

    def memory(self, rows: int) -> Tensor:
        """Room for the keys and values of `rows` rows."""
        size = self.rotation.shape[2]
        return empty_cache(rows, len(self.blocks), self.heads, self.places, size, self.rotation.device)

    def forward(self, codes: Tensor, label: Tensor | None) -> Tensor:
        """Codes [N, S] → the logits of each by those before it, [N, S, K]."""
        tokens = torch.cat((self.begin(label, len(codes))[:, None], codes[:, :-1]), dim=1)
        places = torch.arange(self.places, device=codes.device)
        return self._through(tokens, places, Whole(self.rotation[:, :, None], None))

    def step(self, token: Tensor, place: Tensor, memory: Tensor) -> Tensor:
        """The token [R] that stands before `place` [R] → logits [R, K]; `memory` [R, …] takes what it makes."""
        view = Stepping(self.rotation, memory, place, torch.zeros_like(place))
        return self._through(token[:, None], place[:, None], view).squeeze(1)

    def _through(self, tokens: Tensor, places: Tensor, view: View) -> Tensor:
        hidden = self.embedding(tokens) + self.place(places)
        for layer, block in enumerate(cast(list[Block], list(self.blocks))):
            hidden = block(hidden, view, layer)
        logits: Tensor = self.head(self.norm(hidden)).float()
        return logits
