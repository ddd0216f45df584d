"""The stepped sampler that every family shares: noise by seed and step, and a fixed number of rows.

At one width, device kind and thread count a row's bits depend on its own request alone: requests enter free
rows while others are half-way, all rows advance together, finished ones leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from components.families.family import Family, Networks, Requests, State, move, select, tensors

ODD = 0x9E3779B97F4A7C15
"""2⁶⁴ over the golden ratio: the increment of splitmix64 (Steele et al. 2014)."""


def mix(seed: int, step: int) -> int:
    """One 63-bit seed out of two numbers, by splitmix64's finalizer, so that neighbours are unrelated."""
    value = (seed + (step + 1) * ODD) % 2**64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return (value ^ (value >> 31)) >> 1


def noise(seed: Tensor, step: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise [R, *shape] on the CPU, each row by its own seed and step, the same everywhere."""
    drawn = torch.empty(len(seed), *shape)
    generator = torch.Generator()
    for row, own, count in zip(drawn.unbind(), seed.tolist(), step.tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(mix(own, count)))
    return drawn


def uniform(seed: Tensor, step: Tensor) -> Tensor:
    """One number in [0, 1) a row, float64 [R] on the CPU, by the row's seed and step, the same everywhere."""
    pairs = zip(seed.tolist(), step.tolist(), strict=True)
    return torch.tensor([mix(own, count) / 2**63 for own, count in pairs], dtype=torch.float64)


def option(requests: Requests, name: str, default: float, kind: torch.dtype) -> Tensor:
    """The option of each request, [N] on the CPU; `default` where the requests do not carry it."""
    found = requests.options.get(name, torch.full((len(requests),), default))
    return found.cpu().to(kind)


def blank(
    requests: Requests, shape: tuple[int, ...], device: torch.device, output: Tensor | None = None
) -> dict[str, Tensor]:
    """The fields that every state begins with: nothing done, one row a request, `output` zeros of `shape`.

    `output` replaces the zeros.
    """
    rows = len(requests)
    return {
        "output": torch.zeros(rows, *shape, device=device) if output is None else output,
        "length": torch.zeros(rows, dtype=torch.int64, device=device),
        "done": torch.zeros(rows, dtype=torch.bool, device=device),
        "seed": requests.seed.to(device),
        "step": torch.zeros(rows, dtype=torch.int64, device=device),
    }


def finish(state: State, output: Tensor) -> State:
    """The state after the only step of a one-step family: `output` [R,…] stands in every row that was open."""
    open_rows = ~state.done
    over = open_rows.view(-1, *[1] * (output.dim() - 1))
    changed = {
        "output": torch.where(over, output, state.output),
        "length": state.length.masked_fill(open_rows, output.shape[1]),
        "done": torch.ones_like(state.done),
        "step": state.step + open_rows,
    }
    return type(state)(
        **{**vars(state), **changed}
    )  # as `dataclasses.replace`, which takes three times as long


@dataclass(kw_only=True)
class LatentState(State):
    """The state of a family that makes everything in one step out of `latent` [R, L] and, perhaps, `label` [R]."""

    latent: Tensor
    label: Tensor | None = None


def from_latent(requests: Requests, shape: tuple[int, ...], latent: int, device: torch.device) -> LatentState:
    """A latent a request: the option `latent` [N, L] where the requests carry it, else noise by their seeds."""
    given = requests.options.get("latent")
    if given is None:
        given = noise(requests.seed, torch.zeros_like(requests.seed), (latent,))
    label = None if requests.label is None else requests.label.to(device)
    return LatentState(**blank(requests, shape, device), latent=given.to(device), label=label)


class Slots:
    """`width` rows of one model that are computed together, whether they are taken or idle."""

    def __init__(self, family: Family, networks: Networks, width: int, like: Requests) -> None:
        """`like` is any request of this model; it gives the idle rows their shapes."""
        self.family, self.networks, self.width = family, networks, width
        self.device = device_of(networks)
        first = select(like, torch.zeros(width, dtype=torch.int64))
        with torch.inference_mode():
            self.state = family.start(networks, move(first, self.device))
            self.state.done.fill_(True)

    def admit(self, rows: Sequence[int], requests: Requests) -> None:
        """Start each of `requests` in the row of the same place in `rows`."""
        place = self._place(rows)
        if self.device.type != "cpu":  # where requests are
            requests = move(requests, self.device)
        with torch.inference_mode():
            entering = self.family.start(self.networks, requests)
            for name, value in tensors(self.state).items():
                value[place] = getattr(entering, name)

    def _place(self, rows: Sequence[int]) -> slice | Tensor:
        """Where `rows` are; neighbours are a slice, which is written in half the time of an index."""
        neighbours = range(rows[0], rows[0] + len(rows))
        if list(rows) == list(neighbours):
            return slice(neighbours.start, neighbours.stop)
        return torch.tensor(rows, device=self.device)

    def advance(self) -> None:
        """One step of all rows."""
        with torch.inference_mode():
            self.state = self.family.advance(self.networks, self.state)

    def clear(self, rows: Sequence[int]) -> None:
        """Make rows idle whose client has left."""
        with torch.inference_mode():
            self.state.done[list(rows)] = True


def sample(family: Family, networks: Networks, requests: Requests, width: int) -> Tensor:
    """The finished outputs [N,…] on the CPU, computed `width` rows at a time, in the order of the requests."""
    slots = Slots(family, networks, width, select(requests, slice(0, 1)))
    pieces: list[Tensor] = []
    for first in range(0, len(requests), width):
        part = select(requests, slice(first, first + width))
        slots.admit(range(len(part)), part)
        while not bool(slots.state.done[: len(part)].all()):
            slots.advance()
        pieces.append(slots.state.output[: len(part)].cpu().clone())
    return torch.cat(pieces)


def device_of(networks: Networks) -> torch.device:
    """The device of the networks' parameters."""
    for network in networks.values():
        for parameter in network.parameters():
            return parameter.device
    return torch.device("cpu")
