"""Dilated causal convolutions with gates, residual and skip channels, and what their layers hear of the past.

A layer of dilation d hears its input now and d steps ago. A past is a way to come by the latter: out of whole rows, of
a chunk of one row behind what has entered, or of what was kept of each row when one step of each is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout


class Past(Protocol):
    """Where a layer's inputs of some steps ago come from."""

    def before(self, layer: int, hidden: Tensor) -> Tensor:
        """The inputs of `layer` its dilation ago, given those of now; both [N, L, width]. Called layer by layer."""


class Gated(nn.Module):
    """One layer (van den Oord et al. 2016, section 2.3 and figure 4): tanh(W_f ∗ x) ⊙ σ(W_g ∗ x), mixed twice."""

    def __init__(self, width: int, skip: int, last: bool) -> None:
        super().__init__()
        self.skip = skip
        self.mix = nn.Linear(2 * width, 2 * width)
        # nobody hears what the last layer would add
        self.out = nn.Linear(width, skip if last else skip + width)

    def forward(self, before: Tensor, now: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Inputs [..., width] before and now → what is added to them, and to the skip; `condition` [..., 2 × width]."""
        mixed = self.mix(torch.cat((before, now), -1))
        if condition is not None:
            mixed = mixed + condition.to(mixed.dtype)
        signal, gate = mixed.chunk(2, -1)
        found: Tensor = self.out(signal.tanh() * gate.sigmoid())
        return found[..., self.skip :], found[..., : self.skip]


class Dilated(nn.Module):
    """Layers of `dilations`, of which each adds to the next one's input and to the skip that is the output."""

    def __init__(self, width: int, skip: int, dilations: Sequence[int], rate: float) -> None:
        super().__init__()
        self.width, self.dilations, self.rate = width, tuple(dilations), rate
        last = len(self.dilations) - 1
        self.layers = nn.ModuleList(Gated(width, skip, layer == last) for layer in range(last + 1))
        for layer in self.stack:
            # as many terms are summed as there are layers
            nn.init.normal_(layer.out.weight, std=(width * len(self.layers)) ** -0.5)
            nn.init.zeros_(layer.out.bias)

    @property
    def stack(self) -> list[Gated]:
        """The layers in their order."""
        return cast(list[Gated], list(self.layers))

    def forward(self, hidden: Tensor, past: Past, condition: Tensor | None) -> Tensor:
        """Inputs [N, L, width] → skips [N, L, skip]; `condition` [N, layers, 2 × width] holds for all of a row."""
        total: Tensor | None = None
        for place, layer in enumerate(self.stack):
            told = None if condition is None else condition[:, place, None]
            heard = dropout(hidden, self.rate, self.training)
            added, skip = layer(past.before(place, heard), heard, told)
            total = skip if total is None else total + skip
            hidden = hidden if layer is self.layers[-1] else hidden + added
        assert total is not None, "there is a layer"
        return total

    def blank(self, rows: int, device: torch.device) -> Tensor:
        """What is kept of rows that have heard nothing: each layer's last inputs, as many as its dilation, in a ring.

        Of a layer the input at place t lies at t modulo its dilation (Le Paine et al. 2016, arXiv:1611.09482, queues
        of fixed places): [rows, sum of the dilations, width].
        """
        return torch.zeros(rows, sum(self.dilations), self.width, device=device)


class Whole:
    """Whole rows; where `begin` [N, L] is given, nothing before the place where a token's document begins is heard."""

    def __init__(self, dilations: Sequence[int], begin: Tensor | None = None) -> None:
        self.dilations, self.begin = dilations, begin

    def before(self, layer: int, hidden: Tensor) -> Tensor:
        """See `Past`; before a row's beginning there are zeros."""
        ago, length = self.dilations[layer], hidden.shape[1]
        silence = hidden.new_zeros(len(hidden), min(ago, length), hidden.shape[2])
        return _own(torch.cat((silence, hidden[:, : max(0, length - ago)]), 1), 0, ago, self.begin)


class Entering:
    """A chunk of one row, [1, L], whose first token stands at place `first`; `memory` [places, width] is the row's.

    `begin` [1, L] is where each token's document begins. What the chunk leaves behind is written into the memory.
    """

    def __init__(self, dilations: Sequence[int], memory: Tensor, first: int, begin: Tensor) -> None:
        self.dilations, self.first, self.begin = dilations, first, begin
        self.rings = memory.split_with_sizes(list(dilations))

    def before(self, layer: int, hidden: Tensor) -> Tensor:
        """See `Past`."""
        ago, length, ring = self.dilations[layer], hidden.shape[1], self.rings[layer]
        turn = torch.arange(ago, device=hidden.device)
        inputs = torch.cat((ring[(self.first + turn) % ago], hidden[0]))
        ring[(self.first + length + turn) % ago] = inputs[length:]
        return _own(inputs[None, :length], self.first, ago, self.begin)


class Stepping:
    """One token of each row, [R, 1], at the row's own `place` [R]; its document begins at `begin` [R].

    `memory` [R, places, width] takes what the rows hear, by `keep`, when all layers have heard it.
    """

    def __init__(self, dilations: Sequence[int], memory: Tensor, place: Tensor, begin: Tensor) -> None:
        rings = torch.tensor(dilations, device=place.device)
        slots = rings.cumsum(0) - rings + place[:, None] % rings
        self.memory, self.slots = memory, (torch.arange(len(place), device=place.device)[:, None], slots)
        self.kept = memory[self.slots]
        self.heard = self.kept.where((place[:, None] - rings >= begin[:, None])[..., None], 0.0)
        self.inputs: list[Tensor] = []

    def before(self, layer: int, hidden: Tensor) -> Tensor:
        """See `Past`."""
        self.inputs.append(hidden)
        return self.heard[:, layer, None]

    def keep(self, rows: Tensor) -> None:
        """Write what `rows` (bool [R]) have heard; the others' memory stays."""
        inputs = torch.cat(self.inputs, 1)
        self.memory.index_put_(self.slots, torch.where(rows[:, None, None], inputs, self.kept))


def _own(before: Tensor, first: int, ago: int, begin: Tensor | None) -> Tensor:
    """`before` [N, L, width], whose tokens stand from place `first` on, without what is not of their own document."""
    if begin is None:
        return before
    place = torch.arange(first - ago, first - ago + before.shape[1], device=before.device)
    return before.where((place >= begin)[..., None], 0.0)
