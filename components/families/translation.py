"""The half that families share which turn a source picture into a picture of the data, in one step."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from components.families.family import Family, Kind, Networks, Requests, State, Task
from components.families.layers.translator import Translator
from components.families.sampling import blank, finish


@dataclass(kw_only=True)
class SourceState(State):
    """Rows whose `output` [R,C,H,W] is made out of `source` [R,Cs,H,W] in one step."""

    source: Tensor


@dataclass(frozen=True, kw_only=True)
class Translation(Family):
    """Picture to picture: the source decides everything, so the seed changes nothing."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.SOURCE})

    @abstractmethod
    def translator(self, networks: Networks) -> Translator:
        """The network that makes pictures of the data out of sources."""

    def start(self, networks: Networks, requests: Requests) -> State:
        """One step makes everything out of the rows' sources; pictures are as large as their sources."""
        source = requests.source
        assert source is not None, "a request of this family carries a source"
        shape = (self.translator(networks).outputs, *source.shape[2:])
        return SourceState(**blank(requests, shape, source.device), source=source)

    def advance(self, networks: Networks, state: State) -> State:
        """G(source), cut to [−1, 1]."""
        assert isinstance(state, SourceState)
        return finish(state, self.translator(networks)(state.source).clamp(-1.0, 1.0))
