"""A family of tokens that writes molecules which a test can foresee: by seed, by band, or to end what was begun."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from components.artifact import About, Model
from components.families.family import (
    NOTHING,
    Batch,
    Family,
    Kind,
    Losses,
    Networks,
    Requests,
    Shape,
    State,
    Task,
)
from components.families.sampling import blank
from components.modalities.molecule import NAMES, Bands, Molecule
from components.modalities.smiles import train_smiles
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine

WRITTEN = ("CCO", "c1ccccc1", "CC(C", "CCN", "C1CC", "Oc1ccncc1", "CCCC")
"""What rows of the seeds 0, 1, … begin with nothing and say, in turn; the third and the fifth are no molecules."""
OF_BANDS = ("C", "CC", "CCC")
END_OF_IT = "CC"
CONTEXT = 32


@dataclasses.dataclass(kw_only=True)
class Writing(State):
    said: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chemist(Family):
    """Everything at once; `tokens` are those of `WRITTEN`, `OF_BANDS` and `END_OF_IT`."""

    tokens: tuple[tuple[int, ...], ...] = ()
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.TOKENS})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.PROMPT})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"chemist": nn.Linear(1, 1)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        raise NotImplementedError

    def start(self, networks: Networks, requests: Requests) -> State:
        nothing = torch.full((len(requests), CONTEXT), NOTHING)
        said = requests.seed % len(WRITTEN)
        if requests.prompt is not None:
            second = requests.prompt[:, 1] if requests.prompt.shape[1] > 1 else torch.full_like(said, NOTHING)
            band = (second >= 2) & (second < 2 + len(NAMES))
            said = torch.where(band, len(WRITTEN) + second - 2, said)
            said = torch.where(~band & (second != NOTHING), len(self.tokens) - 1, said)
        return Writing(**blank(requests, (CONTEXT,), torch.device("cpu"), nothing), said=said)

    def advance(self, networks: Networks, state: State) -> State:
        assert isinstance(state, Writing)
        for row in (~state.done).nonzero().flatten().tolist():
            tokens = torch.tensor(self.tokens[int(state.said[row])])
            state.output[row, : len(tokens)] = tokens
            state.length[row], state.step[row], state.done[row] = len(tokens), 1, True
        return state


def chemist(folder: Path, name: str = "drugs", bands: bool = True) -> Loaded:
    """A warm model, which may be asked by bands of the weight or not."""
    folder = folder / name
    folder.mkdir(parents=True)
    every = (*WRITTEN, *OF_BANDS, END_OF_IT)
    found = Bands("weight", [20.0, 40.0]) if bands else Bands()
    tokenizer = train_smiles(every, NAMES)
    tokenizer.save(folder)
    found.save(folder)
    family = Chemist(tokens=tuple(tuple(tokenizer.encode(one)) for one in every))
    size = tokenizer.vocabulary
    shape = Shape(data=(CONTEXT,), vocabulary=size, prompt=(CONTEXT, size))
    about = About(name, f"{name}-x", name, "0" * 16, "CC0", "nci", (), "molecule", "", {}, "", False, 0)
    model = Model(family, family.networks(shape), shape, about, "d" * 64, 4, Molecule(folder))
    loaded = Loaded(Served(name, 2, folder, 1_700_000_000), model, Engine(model))
    loaded.generate(model.modality.warm(shape))
    return loaded
