"""WaveNet: a sound sample by sample, each drawn from what stands before it; text in the same way, token by token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import Optimizer

from components.families.autoregressive import Autoregressive, Language, TextState, language
from components.families.family import (
    END,
    Batch,
    Kind,
    Losses,
    Networks,
    Requests,
    Shape,
    State,
    Task,
    bounded,
    select,
    tuned,
)
from components.families.layers.choose import choose, table, used
from components.families.layers.dilated import Dilated, Entering, Past, Stepping, Whole
from components.families.layers.documents import beginnings, later
from components.families.layers.muon import optimizers_of
from components.families.sampling import blank, device_of, option, uniform

LEVELS = 256
"""The levels of a sample, of which a softmax is taken; one more number is what a sound begins with."""
RUN = 64
"""Samples of each row that a step of the sampler draws at most: 8 ms at 8 kHz."""
PART = 2**17
"""Samples whose likelihood is computed at once."""
OPTIMIZERS = ("muon", "adamw")


class Network(Language):
    """Embedding → gated dilated convolutions → ReLU, linear, ReLU, linear on the sum of their skips (figure 4).

    The embedding is the paper's first causal convolution on one-hot vectors, of filter width 1.
    """

    def __init__(self, shape: Shape, family: WaveNet) -> None:
        super().__init__()
        self.text = bool(shape.vocabulary)
        self.context = shape.data[0] if self.text else shape.data[0] + 1
        outputs = shape.vocabulary or LEVELS
        self.embedding = nn.Embedding(outputs if self.text else LEVELS + 1, family.width)
        self.dilated = Dilated(family.width, family.skip, family.dilations, family.dropout)
        self.label_embedding = (
            nn.Embedding(shape.classes, 2 * family.width * len(family.dilations)) if shape.classes else None
        )
        self.inner, self.outer = nn.Linear(family.skip, family.skip), nn.Linear(family.skip, outputs)
        for weight in [part.weight for part in (self.label_embedding, self.outer) if part is not None]:
            nn.init.normal_(weight, std=0.02)

    def conditions(self, label: Tensor | None) -> Tensor | None:
        """What each layer adds before its gate for a class [N]: [N, layers, 2 × width] (section 2.5, global)."""
        if self.label_embedding is None:
            return None
        assert label is not None, "each row has a class"
        found: Tensor = self.label_embedding(label).unflatten(1, (len(self.dilated.layers), -1))
        return found

    def features(self, tokens: Tensor, source: Tensor | None) -> Tensor:
        """Tokens [N, L] → [N, L, skip]; of sound `source` [N, 1] is the class, where there are any."""
        boundary = later(tokens) if self.text else None
        begin = None if boundary is None else beginnings(boundary)
        condition = self.conditions(None if source is None else source[:, 0])
        return self._through(tokens, Whole(self.dilated.dilations, begin), condition)

    def _through(self, tokens: Tensor, past: Past, condition: Tensor | None) -> Tensor:
        skips = self.dilated(self.embedding(tokens.clamp(min=0)), past, condition)
        return relu(self.inner(relu(skips)))

    def head(self, features: Tensor) -> Tensor:
        """[..., skip] → [..., V]."""
        logits: Tensor = self.outer(features)
        return logits

    def blank(self, requests: Requests) -> dict[str, Tensor]:
        """The last inputs of each layer."""
        return {"memory": self.dilated.blank(len(requests), self.embedding.weight.device)}

    def enter(self, tokens: Tensor, row: int, first: int, state: Any) -> None:
        """See `Language`."""
        begin = beginnings(tokens == END, first, int(state.begin[row]))
        state.begin[row] = begin[0, -1]
        self._through(tokens, Entering(self.dilated.dilations, state.memory[row], first, begin), None)

    def step(self, state: Any, ready: Tensor) -> Tensor:
        """See `Language`; also of a `SoundState`."""
        past = Stepping(self.dilated.dilations, state.memory, state.entered, state.begin)
        logits = self.head(self._through(state.token[:, None], past, getattr(state, "condition", None)))
        past.keep(ready)
        return logits.squeeze(1)


@dataclass(kw_only=True)
class SoundState(State):
    """Sounds being drawn: `token` [R] is the level to enter at place `entered` [R]; `memory` is the network's.

    `condition` is what the layers add for a row's class; `settings` are the options, `begin` [R] is 0.
    """

    token: Tensor
    entered: Tensor
    begin: Tensor
    settings: Tensor
    memory: Tensor
    condition: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class WaveNet(Autoregressive):
    """van den Oord et al. 2016 (arXiv:1609.03499), drawn with cached layers (Le Paine et al. 2016, arXiv:1611.09482).

    A companded sound is a row of 256 levels, and log p of it the sum of log p(sample | samples before it), exactly.
    Each of `stacks` has `layers` dilated convolutions of filter width 2, whose dilations are 1, 2, 4 and so on, so
    that stacks × (2^layers − 1) + 1 samples are heard. `width` is that of the residual and the gated channels, `skip`
    that of the skip channels. Every layer hears the class (global conditioning).

    A step of training takes `window` samples of each row, whose place is drawn; 0 means whole rows. A window inside of
    a row does not begin with the mark of a beginning. `temperature` is that of drawing where a request does not say; 0
    takes the likeliest level. `optimizer` is "muon" (Jordan 2024, on the matrices of the layers at `muon_lr`; AdamW at
    `lr` on the rest) or "adamw". Weight decay acts on matrices, dropout on what a layer hears.

    Of text the levels are tokens, `window` and `temperature` are not looked at, and a document does not hear what
    stands before it.
    """

    lr: float = tuned(2e-3, low=1e-4, high=1e-2, log=True, least=1e-9, most=10.0)
    muon_lr: float = tuned(2e-2, low=1e-3, high=1e-1, log=True, least=1e-9, most=10.0)
    weight_decay: float = tuned(0.0, low=0.0, high=0.5, least=0.0, most=10.0)
    dropout: float = tuned(0.0, low=0.0, high=0.5, least=0.0, most=0.95)
    layers: int = tuned(10, low=6, high=12, least=1, most=16)
    stacks: int = tuned(2, low=1, high=4, least=1, most=64)
    width: int = tuned(64, low=32, high=256, log=True, least=1, most=65_536)
    skip: int = bounded(128, least=1, most=65_536)
    window: int = bounded(4096, least=0, most=2**30)
    temperature: float = bounded(1.0, least=0.0, most=2.0)
    optimizer: str = "muon"

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.TOKENS, Kind.WAVEFORM})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.PROMPT, Task.LABEL})
    small: ClassVar[Mapping[str, Any]] = {"layers": 4, "width": 16, "skip": 32}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer = {self.optimizer!r} is not one of “muon” and “adamw”")

    @property
    def dilations(self) -> tuple[int, ...]:
        """How many steps ago each layer hears beside now."""
        return tuple(2**layer for layer in range(self.layers)) * self.stacks

    @property
    def shardable(self) -> bool:
        """Muon looks at whole matrices."""
        return self.optimizer == "adamw"

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """One network."""
        return {"decoder": Network(shape, self)}

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """See the class."""
        return optimizers_of(network, self.optimizer, self.lr, self.muon_lr, self.weight_decay)

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The mean of −log p(sample) in nats; of text that of `Autoregressive`."""
        if batch.data.is_floating_point():
            batch = leveled(batch)
            if 0 < self.window < batch.data.shape[1] - 1:
                batch = _windows(batch, self.window)
        return super().loss(name, networks, batch, step)

    def nats(self, networks: Networks, batch: Batch) -> Tensor:
        """−log p of each row, exactly, [N]."""
        if not batch.data.is_floating_point():
            return super().nats(networks, batch)
        batch, rows = leveled(batch), max(1, PART // batch.data.shape[1])
        parts = [select(batch, slice(first, first + rows)) for first in range(0, len(batch), rows)]
        # named, because a comprehension has no place of its own to call super from
        return torch.cat([Autoregressive.nats(self, networks, part) for part in parts])

    def start(self, networks: Networks, requests: Requests) -> Any:
        """A `SoundState` of rows before their first sample; of text the `TextState` of `Autoregressive`."""
        network, rows, device = network_of(networks), len(requests), device_of(networks)
        if network.text:
            return super().start(networks, requests)
        zeros = torch.zeros(rows, dtype=torch.int64, device=device)
        temperature = option(requests, "temperature", self.temperature, torch.float32)
        return SoundState(
            **blank(requests, (network.context - 1,), device),
            token=torch.full_like(zeros, LEVELS),
            entered=zeros,
            begin=zeros.clone(),
            settings=table({"temperature": temperature}, rows, device),
            condition=network.conditions(requests.label),
            **network.blank(requests),
        )

    def advance(self, networks: Networks, state: State) -> State:
        """A run of samples of every open row; of text a token."""
        if isinstance(state, TextState):
            return super().advance(networks, state)
        assert isinstance(state, SoundState)
        samples = state.output.shape[1]
        left = (samples - state.length).masked_fill(state.done, 0)
        run = min(RUN, int(left.max()))
        places = state.step[:, None] + torch.arange(run, device=left.device)
        chances = uniform(state.seed.repeat_interleave(run), places.flatten()).view(len(left), run)
        asked = used(state.settings, ~state.done)
        for chance in chances.to(left.device).unbind(1):
            _sound(network_of(networks), state, asked, chance)
        return state


def network_of(networks: Networks) -> Network:
    """The network of a `WaveNet`."""
    network = language(networks)
    assert isinstance(network, Network)
    return network


def leveled(batch: Batch) -> Batch:
    """Companded sound [N, T] in [−1, 1] as tokens [N, 1 + T]: the mark of a beginning, then levels from 0 to 255."""
    levels = ((batch.data.float() + 1.0) * 127.5).round().clamp(0, LEVELS - 1).long()
    data = torch.cat((torch.full_like(levels[:, :1], LEVELS), levels), 1)
    source = None if batch.label is None else batch.label[:, None]
    return Batch(data=data, length=batch.length + 1, source=source)


def _windows(batch: Batch, window: int) -> Batch:
    """1 + `window` tokens out of each row; a window that would reach beyond an end begins, or ends, there."""
    last, device = batch.data.shape[1] - 1 - window, batch.data.device
    first = torch.randint(-window, last + window + 1, (len(batch), 1), device=device).clamp(0, last)
    place = first + torch.arange(1 + window, device=device)
    return replace(batch, data=batch.data.gather(1, place), length=torch.full_like(batch.length, 1 + window))


def _sound(network: Network, state: SoundState, asked: set[str], chance: Tensor) -> None:
    """Draw the next sample of all rows that are not done, by `chance` [R]; the others stay as they are."""
    ready, nothing = ~state.done, state.token[:0]
    logits = network.step(state, ready).float()
    drawn = choose(logits, state.settings, asked, chance, nothing, nothing)  # no level is penalised
    place = state.length[:, None].clamp(max=state.output.shape[1] - 1)
    sample = drawn[:, None] / 127.5 - 1.0
    state.output.scatter_(1, place, torch.where(ready[:, None], sample, state.output.gather(1, place)))
    state.token = torch.where(ready, drawn, state.token)
    state.entered += ready
    state.length += ready
    state.step += ready
    state.done |= ready & (state.length >= state.output.shape[1])
