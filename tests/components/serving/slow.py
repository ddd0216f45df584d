"""A family of as many steps as are asked for, which fails or ends its engine where it is told to."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch import Tensor

from components.families.family import Networks, Requests, State
from components.families.sampling import blank, noise
from components.families.vae import VAE
from components.serving.engine import Engine
from tests.until import until

WIDTH = 4
LAST = 77
"""Steps asked for by the request that ends the engine's thread."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slow(VAE):
    """Takes as many steps as the request's label says, each adding noise of the row's own; label < 0 breaks."""

    pause: float = 0.0

    def start(self, networks: Networks, requests: Requests) -> State:
        assert requests.label is not None
        if bool((requests.label == 99).any()):
            raise ValueError("no such label")
        fields = blank(requests, (1, 8, 8), torch.device("cpu"))
        return Counting(**fields, todo=requests.label.clone())

    def advance(self, networks: Networks, state: State) -> State:
        assert isinstance(state, Counting)
        time.sleep(self.pause)
        if bool(((state.todo < 0) & ~state.done).any()):
            raise RuntimeError("the step broke")
        if bool((state.todo == LAST).any()):
            raise SystemExit("the thread ends")
        step = noise(state.seed, state.step, (1, 8, 8))
        latent = step.flatten(1)[:, : self.latent]
        decoded: Tensor = networks["autoencoder"].decode(latent)  # type: ignore[operator]
        active = ~state.done
        state.output[active] += decoded[active]
        state.step[active] += 1
        state.done |= state.step >= state.todo
        return state


@dataclasses.dataclass(kw_only=True)
class Counting(State):
    todo: Tensor


def until_asleep(engine: Engine) -> None:
    """Wait until the engine's thread, which may just have answered, sleeps."""
    until(lambda: not engine.busy and engine._change._waiters)  # type: ignore[attr-defined]


def ask(seeds: list[int], steps: int) -> Requests:
    return Requests(seed=torch.tensor(seeds), label=torch.full((len(seeds),), steps))
