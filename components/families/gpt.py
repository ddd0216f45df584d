"""The decoder-only transformer: every token attends to those before it in its document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.optim import Optimizer

from components.families.autoregressive import Autoregressive, Language
from components.families.family import END, Requests, Shape, bounded, tuned
from components.families.layers.attention import (
    Block,
    check_heads,
    initialise,
    rotations,
    swiglu_width,
)
from components.families.layers.documents import beginnings
from components.families.layers.muon import optimizers_of
from components.families.layers.norm import RMSNorm
from components.families.layers.product import linear
from components.families.layers.views import Entering, Stepping, View, Whole, boundaries, empty_cache


class Decoder(Language):
    """Embedding → blocks → norm → logits by the embedding's own matrix (Press & Wolf 2017, arXiv:1608.05859)."""

    def __init__(self, shape: Shape, family: GPT) -> None:
        super().__init__()
        self.context, self.dropout = shape.data[0], family.dropout
        self.embedding = nn.Embedding(shape.vocabulary, family.width)
        self.blocks = self._blocks(family)
        self.norm = RMSNorm(family.width)
        longest = max(self.context, *(shape.source or (0,)))
        table = rotations(longest, family.head_size, family.theta)
        self.register_buffer("rotation", table, persistent=False)
        self.rotation: Tensor
        initialise(self)

    def _blocks(self, family: GPT) -> nn.ModuleList:
        return nn.ModuleList(family.block() for _ in range(family.layers))

    @property
    def stack(self) -> list[Block]:
        """The blocks in their order."""
        return cast(list[Block], list(self.blocks))

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens [N, L] → [N, L, width]; `NOTHING` becomes something that nobody sees."""
        return dropout(self.embedding(tokens.clamp(min=0)), self.dropout, self.training)

    def features(self, tokens: Tensor, source: Tensor | None) -> Tensor:
        """Tokens [N, L] → [N, L, width]."""
        view = Whole(self.rotation[:, : tokens.shape[1], None], boundaries(tokens))
        return self._through(tokens, view)

    def _through(self, tokens: Tensor, view: View) -> Tensor:
        hidden = self.embed(tokens)
        for layer, block in enumerate(self.stack):
            hidden = block(hidden, view, layer)
        normed: Tensor = self.norm(hidden)
        return normed

    def head(self, features: Tensor) -> Tensor:
        """[..., width] → [..., V]."""
        return linear(features, self.embedding.weight)

    def blank(self, requests: Requests) -> dict[str, Tensor]:
        """Keys and values of each layer and place, [N, layers, 2, kv_heads, places, size]."""
        part = self.stack[0].attention
        layers, device = len(self.blocks), self.embedding.weight.device
        places = max(1, self.context - 1)  # the last token is drawn and never seen
        return {"memory": empty_cache(len(requests), layers, part.kv_heads, places, part.size, device)}

    def enter(self, tokens: Tensor, row: int, first: int, state: Any) -> None:
        """See `Language`."""
        begin = beginnings(tokens == END, first, int(state.begin[row]))
        state.begin[row] = begin[0, -1]
        self._through(tokens, Entering(self.rotation, state.memory[row], first, begin))

    def step(self, state: Any, ready: Tensor) -> Tensor:
        """See `Language`; what a row that is not ready writes is overwritten before anything sees it."""
        view = Stepping(self.rotation, state.memory, *standing(state))
        return self.head(self._through(state.token[:, None], view)).squeeze(1)


def standing(state: Any) -> tuple[Tensor, Tensor]:
    """Where each row of a `TextState` stands, and where its document begins; idle rows at 0, so that none reads far."""
    return state.entered.masked_fill(state.done, 0), state.begin.masked_fill(state.done, 0)


@dataclass(frozen=True, kw_only=True)
class GPT(Autoregressive):
    """Radford et al. 2018, with what has come since: RMS norms before each part (Zhang & Sennrich 2019), rotary
    positions (Su et al. 2021), SwiGLU (Shazeer 2020), grouped queries (Ainslie et al. 2023), tied embeddings and,
    with `qk_norm`, normalised queries and keys (Henry et al. 2020).

    With `qk_norm` it computes what Qwen3 does in `transformers`, without it what Llama does. `kv_heads` and
    `hidden` at 0 mean as many as `heads`, and 8/3 of `width` rounded up to a multiple of 32; `size`, the numbers of a
    head, at 0 means `width` / `heads`. `optimizer` is "muon"
    (Jordan 2024, on the matrices of the blocks at `muon_lr`; AdamW at `lr` on the rest) or "adamw". Weight decay
    acts on matrices; dropout on the embedded tokens and on what each part adds.
    """

    lr: float = tuned(3e-3, low=1e-5, high=3e-2, log=True, least=1e-9, most=10.0)
    muon_lr: float = tuned(2e-2, low=1e-3, high=1e-1, log=True, least=1e-9, most=10.0)
    weight_decay: float = tuned(0.1, low=0.0, high=0.5, least=0.0, most=10.0)
    dropout: float = tuned(0.0, low=0.0, high=0.5, least=0.0, most=0.95)
    layers: int = tuned(4, low=2, high=12, least=1, most=256)
    heads: int = bounded(4, least=1, most=256)
    kv_heads: int = bounded(0, least=0, most=256)
    width: int = bounded(128, least=2, most=65_536)
    size: int = bounded(0, least=0, most=65_536)
    hidden: int = bounded(0, least=0, most=262_144)
    qk_norm: bool = True
    theta: float = bounded(10_000.0, least=1.0, most=1e9)
    optimizer: str = "muon"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_heads(self.width, self.heads, self.kv_heads, self.size)
        if self.optimizer not in ("muon", "adamw"):
            raise ValueError(f"optimizer = {self.optimizer!r} is not one of “muon” and “adamw”")

    def block(self, cross: bool = False) -> Block:
        """One block of this size."""
        return Block(
            self.width,
            self.heads,
            self.kv_heads or self.heads,
            self.inner,
            self.qk_norm,
            self.dropout,
            self.head_size,
            cross,
        )

    @property
    def inner(self) -> int:
        """The width inside SwiGLU."""
        return self.hidden or swiglu_width(self.width)

    @property
    def head_size(self) -> int:
        """The numbers of a head."""
        return self.size or self.width // self.heads

    @property
    def shardable(self) -> bool:
        """Muon looks at whole matrices."""
        return self.optimizer == "adamw"

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network."""
        return {"decoder": Decoder(shape, self)}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """See the class."""
        return optimizers_of(network, self.optimizer, self.lr, self.muon_lr, self.weight_decay)
