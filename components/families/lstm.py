"""The recurrent language model: a state is carried from token to token and forgotten where a document begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.optim import Optimizer

from components.families.autoregressive import Autoregressive, Language
from components.families.family import END, Requests, Shape, bounded, tuned
from components.families.layers.documents import apart, later
from components.families.layers.muon import optimizers_of
from components.families.layers.product import linear


class Recurrent(Language):
    """Embedding → LSTM layers → logits, by the embedding's own matrix if the widths are equal."""

    def __init__(self, shape: Shape, family: LSTM) -> None:
        super().__init__()
        self.context, self.dropout = shape.data[0], family.dropout
        embedded = family.embedded or family.width
        between = family.dropout if family.layers > 1 else 0.0
        self.embedding = nn.Embedding(shape.vocabulary, embedded)
        self.lstm = nn.LSTM(embedded, family.width, family.layers, batch_first=True, dropout=between)
        tied = embedded == family.width
        self.output = None if tied else nn.Linear(family.width, shape.vocabulary, bias=False)
        self.bias = nn.Parameter(torch.zeros(shape.vocabulary))
        self._initialise()

    def _initialise(self) -> None:
        """Recurrences begin orthogonal, and forget gates open (Jozefowicz et al. 2015)."""
        nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
        width = self.lstm.hidden_size
        for name, weight in self.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in weight.data.split_with_sizes((width,) * 4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                nn.init.zeros_(weight)
            if name.startswith("bias_ih"):
                # the gates are input, forget, cell, output
                nn.init.ones_(weight.data[width : 2 * width])

    def features(self, tokens: Tensor, source: Tensor | None) -> Tensor:
        """Tokens [N, L] → [N, L, width]; a document starts from nothing, also in the middle of a row."""
        boundary = later(tokens)
        if boundary is None:
            return self._run(tokens, None)[0]
        documents, place = apart(tokens, boundary)
        return self._run(documents, None)[0].flatten(0, 1)[place]

    def _run(self, tokens: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        """Tokens [N, L] and the state before them → features [N, L, width] and the state behind them.

        Dropout acts on what goes up from layer to layer, not on what is carried on (Zaremba et al. 2014).
        """
        embedded = dropout(self.embedding(tokens.clamp(min=0)), self.dropout, self.training)
        kind = embedded.device.type
        # under autocast a GPU's kernel would compute in float16, whose smallest gradients are lost
        with torch.autocast(kind, enabled=kind == "cpu" and torch.is_autocast_enabled(kind)):
            hidden, state = self.lstm(embedded, state)
        return dropout(hidden, self.dropout, self.training), state

    def head(self, features: Tensor) -> Tensor:
        """[..., width] → [..., V]."""
        if self.output is None:
            return linear(features, self.embedding.weight, self.bias)
        logits: Tensor = self.output(features) + self.bias
        return logits

    def blank(self, requests: Requests) -> dict[str, Tensor]:
        """What each layer puts out and what it keeps, [N, layers, 2, width]; in memory both come first."""
        sizes = (2, self.lstm.num_layers, len(requests), self.lstm.hidden_size)
        return {"memory": torch.zeros(sizes, device=self.bias.device).permute(2, 1, 0, 3)}

    def enter(self, tokens: Tensor, row: int, first: int, state: Any) -> None:
        """See `Language`; what stands before the last document's beginning is forgotten anyway."""
        begins = (tokens[0] == END).nonzero()
        memory = state.memory[row : row + 1]
        if len(begins):
            tokens = tokens[:, int(begins[-1]) :]
            memory = torch.zeros_like(memory)
        _, (out, kept) = self._run(tokens, _unstacked(memory))
        state.memory[row, :, 0], state.memory[row, :, 1] = out[:, 0], kept[:, 0]

    def step(self, state: Any, ready: Tensor) -> Tensor:
        """See `Language`."""
        begins = (state.token == END)[:, None, None, None]
        memory = torch.where(begins, 0.0, state.memory)
        features, (out, kept) = self._run(state.token[:, None], _unstacked(memory))
        new = torch.stack((out, kept)).permute(2, 1, 0, 3)
        state.memory = torch.where(ready[:, None, None, None], new, state.memory)
        return self.head(features.squeeze(1))


def _unstacked(memory: Tensor) -> tuple[Tensor, Tensor]:
    """[R, layers, 2, width] → two of [layers, R, width], as `nn.LSTM` wants them."""
    out, kept = memory.permute(2, 1, 0, 3).contiguous()
    return out, kept


@dataclass(frozen=True, kw_only=True)
class LSTM(Autoregressive):
    """Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000), as a language model: dropout as in
    Zaremba et al. 2014 (arXiv:1409.2329), tied embeddings (Press & Wolf 2017, arXiv:1608.05859).

    `embedded` is the embedding's width; 0 means `width`, and only then are the embeddings tied. Weight decay acts
    on matrices.
    """

    lr: float = tuned(3e-3, low=1e-4, high=3e-2, log=True, least=1e-9, most=10.0)
    weight_decay: float = tuned(0.01, low=0.0, high=0.5, least=0.0, most=10.0)
    dropout: float = tuned(0.0, low=0.0, high=0.5, least=0.0, most=0.95)
    layers: int = tuned(2, low=1, high=4, least=1, most=64)
    width: int = tuned(256, low=64, high=1024, log=True, least=1, most=65_536)
    embedded: int = bounded(0, least=0, most=65_536)

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network."""
        return {"decoder": Recurrent(shape, self)}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """AdamW."""
        return optimizers_of(network, "adamw", self.lr, self.lr, self.weight_decay)
