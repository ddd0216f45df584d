"""A family that costs nothing, or exactly `pause` seconds a step: what is measured of it is the server.

The benchmarks of serving copy this file into their own project's `components/families`, where every family is a
file; its artifacts are saved, registered, promoted and served like those of any other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from components.families.family import Batch, Family, Kind, Losses, Networks, Requests, Shape, State, Task
from components.families.sampling import blank, finish

LAST = 666_666
"""The seed whose request ends the engine's thread."""


@dataclass(frozen=True, kw_only=True)
class Echo(Family):
    """Pictures of one level, which the seed says."""

    pause: float = 0.0

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.IMAGE})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """A network, because an artifact has one; it is not called."""
        return {"echo": Still(shape.data)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """Nothing here is trained."""
        raise NotImplementedError

    def start(self, networks: Networks, requests: Requests) -> State:
        """Rows of the shape that the artifact was saved with."""
        still = networks["echo"]
        assert isinstance(still, Still)
        return State(**blank(requests, still.data, torch.device("cpu")))

    def advance(self, networks: Networks, state: State) -> State:
        """The only step."""
        if LAST in state.seed.tolist() and bool((state.seed[~state.done] == LAST).any()):
            raise SystemExit("the last request")
        if self.pause:
            time.sleep(self.pause)
        level = (state.seed % 255).float() / 127.5 - 1
        return finish(state, level.view(-1, 1, 1, 1).expand_as(state.output))


class Still(nn.Module):
    """Remembers the shape of the pictures."""

    def __init__(self, data: tuple[int, ...]) -> None:
        super().__init__()
        self.data, self.weight = data, nn.Parameter(torch.zeros(1))
