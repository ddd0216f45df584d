"""The encoder–decoder transformer: a source is read as a whole, and what it is turned into is written by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from components.families.autoregressive import TextState
from components.families.family import END, NOTHING, Requests, Shape, Task, tuned
from components.families.gpt import GPT, Decoder, standing
from components.families.layers.attention import Block, initialise
from components.families.layers.documents import beginnings
from components.families.layers.norm import RMSNorm
from components.families.layers.views import Entering, Stepping, View, Whole, boundaries


@dataclass(kw_only=True)
class PairState(TextState):
    """`remembered` [R, layers, 2, kv_heads, S, size] are the source's keys and values, `reach` bool [R, S] where."""

    remembered: Tensor
    reach: Tensor


class Translator(Decoder):
    """A decoder whose blocks also look at what an encoder has made of the source; one embedding (section 3.4)."""

    def __init__(self, shape: Shape, family: Seq2Seq) -> None:
        super().__init__(shape, family)
        if shape.source is None:
            raise ValueError("an encoder–decoder needs rows that have a source")
        self.sources = shape.source[0]
        self.encoder = nn.ModuleList(family.block() for _ in range(family.layers))
        self.encoder_norm = RMSNorm(family.width)
        initialise(self)

    def _blocks(self, family: GPT) -> nn.ModuleList:
        return nn.ModuleList(family.block(cross=True) for _ in range(family.layers))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Sources [N, S] → keys and values [N, layers, 2, kv_heads, S', size] and where they are, [N, 1, 1, S'].

        S' is the length of the longest of them. An empty one becomes a lone `END`, so that there is something to see.
        """
        source = source[:, : max(int((source != NOTHING).sum(1).max()), 1)].clone()
        source[:, 0] = torch.where(source[:, 0] == NOTHING, END, source[:, 0])
        reach = (source != NOTHING)[:, None, None]
        view, hidden = Whole(self.rotation[:, : source.shape[1], None], reach), self.embed(source)
        for layer, block in enumerate(cast(list[Block], list(self.encoder))):
            hidden = block(hidden, view, layer)
        encoded = self.encoder_norm(hidden)
        crosses = [block.cross for block in self.stack if block.cross is not None]
        return torch.stack([cross.remember(encoded) for cross in crosses], dim=1), reach

    def features(self, tokens: Tensor, source: Tensor | None) -> Tensor:
        """Tokens [N, L] and their sources [N, S] → [N, L, width]."""
        assert source is not None, "an encoder–decoder needs rows that have a source"
        view = Whole(self.rotation[:, : tokens.shape[1], None], boundaries(tokens))
        return self._written(tokens, view, *self.encode(source))

    def _written(self, tokens: Tensor, view: View, remembered: Tensor, reach: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for layer, block in enumerate(self.stack):
            hidden = block(hidden, view, layer, (remembered[:, layer], reach))
        normed: Tensor = self.norm(hidden)
        return normed

    def blank(self, requests: Requests) -> dict[str, Tensor]:
        """The cache, and each row's source, encoded alone so that its bits depend on nothing else."""
        device, rows, part = self.embedding.weight.device, len(requests), self.stack[0].attention
        sizes = (2, part.kv_heads, self.sources, part.size)
        remembered = torch.zeros(len(self.blocks), rows, *sizes, device=device).transpose(0, 1)
        reach = torch.zeros(rows, self.sources, dtype=torch.bool, device=device)
        sources = requests.source
        if sources is None:
            sources = torch.full((rows, self.sources), NOTHING, device=device)
        if bool((sources[:, self.sources :] != NOTHING).any()):
            raise ValueError(f"a source is longer than {self.sources} tokens")
        for row in range(rows):
            own, there = self.encode(sources[row : row + 1].to(device))
            remembered[row, :, :, :, : own.shape[4]] = own[0]
            reach[row, : own.shape[4]] = there[0, 0, 0]
        return {**super().blank(requests), "remembered": remembered, "reach": reach}

    def enter(self, tokens: Tensor, row: int, first: int, state: Any) -> None:
        """See `Language`."""
        begin = beginnings(tokens == END, first, int(state.begin[row]))
        state.begin[row] = begin[0, -1]
        view = Entering(self.rotation, state.memory[row], first, begin)
        self._written(tokens, view, state.remembered[row, None], state.reach[row, None, None, None])

    def step(self, state: Any, ready: Tensor) -> Tensor:
        """See `Decoder.step`."""
        view = Stepping(self.rotation, state.memory, *standing(state))
        reach = state.reach[:, None, None]
        return self.head(self._written(state.token[:, None], view, state.remembered, reach)).squeeze(1)


@dataclass(frozen=True, kw_only=True)
class Seq2Seq(GPT):
    """Vaswani et al. 2017 (arXiv:1706.03762), of the blocks of `GPT`: RMS norms before each part, rotary positions in
    self-attention, SwiGLU, grouped and normalised queries and keys where asked for, one tied embedding.

    `layers` is the number of the encoder's blocks and of the decoder's; the other fields are those of `GPT`.
    """

    layers: int = tuned(3, low=1, high=8, least=1, most=256)
    dropout: float = tuned(0.1, low=0.0, high=0.5, least=0.0, most=0.95)

    tasks: ClassVar[frozenset[Task]] = frozenset({Task.SOURCE})
    state: ClassVar[type[TextState]] = PairState

    @property
    def shardable(self) -> bool:
        """A block's cross-attention is asked for the source's keys before the block itself runs."""
        return False

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network, because encoder and decoder share one loss; ValueError for rows without a source."""
        return {"decoder": Translator(shape, self)}
