"""What a family is: named networks, a loss for each, and a stepped sampler.

A family is a frozen dataclass whose fields are its hyperparameters. It knows tensors and nothing else: no
data source, no device, no cluster. One file in this folder that defines a concrete family of the file's own
name is all it takes to add one.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

Networks: TypeAlias = Mapping[str, nn.Module]
Losses: TypeAlias = tuple[Tensor, dict[str, Tensor]]
Rows = TypeVar("Rows", "Batch", "Requests")

NOTHING = -1
"""Where a row of tokens has none."""
END = 0
"""The token that stands before and behind every document."""


class Kind(StrEnum):
    """The tensors that a family models."""

    IMAGE = "image"
    TOKENS = "tokens"
    WAVEFORM = "waveform"


class Task(StrEnum):
    """What a request may carry: nothing, a class, a prompt, something to be turned into something else."""

    FREE = "free"
    LABEL = "label"
    PROMPT = "prompt"
    SOURCE = "source"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The shapes of one dataset's rows: `data` is [C,H,W], [T] or [S]; `prompt` is (length, vocabulary).

    Rows of tokens hold `data[0]` of them, the first of which is given and not predicted.
    """

    data: tuple[int, ...]
    vocabulary: int = 0
    classes: int = 0
    prompt: tuple[int, int] | None = None
    source: tuple[int, ...] | None = None

    def narrowed(self, task: Task) -> Shape:
        """This shape with only those conditions that a request of `task` carries; tokens keep all of theirs."""
        if self.vocabulary:
            return self
        return dataclasses.replace(
            self,
            classes=self.classes if task is Task.LABEL else 0,
            prompt=self.prompt if task is Task.PROMPT else None,
            source=self.source if task is Task.SOURCE else None,
        )


@dataclass(kw_only=True)
class Batch:
    """N rows: `data` [N,…] (floats in [−1,1], or int64), `length` [N]; the others as the dataset has them.

    Tokens stand at the left of their row; behind `length`, and wherever a row of tokens has nothing, is `NOTHING`.
    The first `given` [N] tokens of a row are context and are not predicted; None stands for one.
    """

    data: Tensor
    length: Tensor
    given: Tensor | None = None
    label: Tensor | None = None
    prompt: Tensor | None = None
    source: Tensor | None = None

    def __len__(self) -> int:
        return self.data.shape[0]


@dataclass(kw_only=True)
class Requests:
    """N rows to be generated: a batch without data, a `seed` [N] each, `options` (name → [N]).

    A `prompt` of tokens [N,P] is what the new row begins with, padded with `NOTHING`; without one, tokens begin
    with `END`. Of pictures, `prompt` is a caption's tokens and `source` a picture [N,C,H,W] in [−1,1]; of a source to
    be completed, the last channel is the mask: 1 where something is wanted, −1 where the picture is known.
    """

    seed: Tensor
    label: Tensor | None = None
    prompt: Tensor | None = None
    source: Tensor | None = None
    options: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.seed.shape[0]


def tensors(rows: Any) -> dict[str, Tensor]:
    """The tensors of a `Batch`, `Requests` or `State`, by field."""
    return {name: value for name, value in vars(rows).items() if isinstance(value, Tensor)}


def select(rows: Rows, index: Tensor | slice) -> Rows:
    """The rows at `index`, in that order."""
    changed: dict[str, Any] = {name: value[index] for name, value in tensors(rows).items()}
    if isinstance(rows, Requests):
        changed["options"] = {name: value[index] for name, value in rows.options.items()}
    return dataclasses.replace(rows, **changed)


def alike(requests: Requests) -> tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]:
    """What is the same of requests that `join` takes together: which tensors they have, and how large a row's are."""
    every = {**tensors(requests), **requests.options}
    return tuple((name, value.dtype, tuple(value.shape[1:])) for name, value in every.items())


def join(parts: Sequence[Requests]) -> Requests:
    """The rows of several requests, one behind the other; they are `alike`."""
    if len(parts) == 1:
        return parts[0]
    rows: dict[str, Any] = {
        name: torch.cat([getattr(part, name) for part in parts]) for name in tensors(parts[0])
    }
    options = {name: torch.cat([part.options[name] for part in parts]) for name in parts[0].options}
    return Requests(**rows, options=options)


def move(rows: Rows, device: torch.device) -> Rows:
    """The same rows on `device`."""
    changed: dict[str, Any] = {
        name: value.to(device, non_blocking=True) for name, value in tensors(rows).items()
    }
    if isinstance(rows, Requests):
        changed["options"] = {name: value.to(device) for name, value in rows.options.items()}
    return dataclasses.replace(rows, **changed)


@dataclass(kw_only=True)
class State:
    """R rows being generated; every tensor has the rows as its first axis.

    `output` [R,…] is what a row has so far (of tokens only the new ones, `NOTHING` behind them), `length` [R] how
    much of it is there, `done` [R] bool, `seed` [R]
    int64, `step` [R] int64 counts the row's own steps. Subclasses add tensors whose shapes after the row axis
    depend on family and shape only.
    """

    output: Tensor
    length: Tensor
    done: Tensor
    seed: Tensor
    step: Tensor


def tuned(
    default: float,
    *,
    low: float,
    high: float,
    log: bool = False,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A hyperparameter with its search range [low, high] on one line; `least` and `most` bound what is legal."""
    if not low <= default <= high:
        raise ValueError(f"the default {default} is outside the search range [{low}, {high}]")
    return field(
        default=default, metadata={"low": low, "high": high, "log": log, "least": least, "most": most}
    )


def bounded(default: Any, *, least: float | None = None, most: float | None = None) -> Any:
    """A hyperparameter that is not searched, with its legal range."""
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """A generative model as its paper states it. Subclasses add fields; see the module's first lines."""

    lr: float = tuned(2e-4, low=1e-5, high=1e-2, log=True, least=1e-9, most=10.0)

    kinds: ClassVar[frozenset[Kind]]
    tasks: ClassVar[frozenset[Task]]
    double_backward: ClassVar[bool] = False
    unpaired: ClassVar[bool] = False
    """Whether its sources have nothing to do with the pictures that they stand beside; others learn from pairs."""
    unclipped: ClassVar[bool] = False
    """Whether its loss has rare and large parts, which clipping gradients would cut off."""
    private: ClassVar[frozenset[str]] = frozenset()
    small: ClassVar[Mapping[str, Any]] = {}
    """Hyperparameters with which a family is quick to try on tiny data, as the contract test does."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _check(item, getattr(self, item.name))

    @property
    def shardable(self) -> bool:
        """Whether FSDP2 may shard the matrices: not where an optimizer or a part's method needs them whole."""
        return not self.double_backward

    def guided(self, shape: Shape) -> bool:
        """Whether sampling has something to weigh by an option `guidance`."""
        return False

    @property
    def binarized(self) -> bool:
        """Whether `nats` are of values that are drawn black or white by their grey level, not of 8-bit ones."""
        return False

    @abstractmethod
    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        """The networks by name, in the order in which a step updates them."""

    def due(self, name: str, step: int) -> bool:
        """Whether `name` is updated at `step` (counted from 0); critic schedules override it."""
        return True

    def optimizers(self, name: str, network: nn.Module) -> list[Optimizer]:
        """The optimizers of one network; by default AdamW at `lr`."""
        return [AdamW(network.parameters(), lr=self.lr, weight_decay=0.0, fused=True)]

    @abstractmethod
    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The loss of `name` (scalar) and what is worth logging (scalars); every parameter of it takes part."""

    def nats(self, networks: Networks, batch: Batch) -> Tensor | None:
        """−log p(data) in nats or an upper bound on it, [N]; None where the family has none."""
        return None

    def importance_nats(self, networks: Networks, batch: Batch, draws: int) -> Tensor | None:
        """A tighter bound on −log p(data) than `nats`, by `draws` importance-weighted samples, in nats [N], or None."""
        return None

    def encode(self, networks: Networks, data: Tensor) -> Tensor | None:
        """The latents [N, L] from which `data` [N,…] would be made; None where the family has no way back."""
        return None

    @abstractmethod
    def start(self, networks: Networks, requests: Requests) -> State:
        """A state with one row a request, before its first step."""

    @abstractmethod
    def advance(self, networks: Networks, state: State) -> State:
        """One step of every row; may write in place. Done rows may hold anything and are left alone."""


def _check(item: dataclasses.Field[Any], value: Any) -> None:
    """Raise ValueError if `value` has not the type of the default or is outside the legal range."""
    default = item.default
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = whole or isinstance(value, float)
    fits = {
        bool: isinstance(value, bool),
        int: whole,
        float: number,
        str: isinstance(value, str),
    }.get(type(default), True)
    if not fits:
        raise ValueError(f"{item.name} = {value!r} must be of the kind of its default, {default!r}")
    least, most = item.metadata.get("least"), item.metadata.get("most")
    if number and not (least is None or value >= least):
        raise ValueError(f"{item.name} = {value} is out of range: at least {least}")
    if number and not (most is None or value <= most):
        raise ValueError(f"{item.name} = {value} is out of range: at most {most}")
    if isinstance(value, float) and value != value:
        raise ValueError(f"{item.name} = nan is out of range")


@cache
def names() -> tuple[str, ...]:
    """Every module directly in this folder that defines a concrete family of its own name."""
    package = importlib.import_module("components.families")
    modules = [found.name for found in pkgutil.iter_modules(package.__path__) if not found.ispkg]
    return tuple(name for name in sorted(modules) if _defined(name) is not None)


def kind_of(name: str) -> type[Family]:
    """The family class called `name`; KeyError if there is none."""
    found = _defined(name) if name.isidentifier() and name in names() else None
    if found is None:
        raise KeyError(name)
    return found


def _defined(name: str) -> type[Family] | None:
    module = importlib.import_module(f"components.families.{name}")
    wanted = name.replace("_", "")
    for found in vars(module).values():
        if isinstance(found, type) and issubclass(found, Family) and found.__module__ == module.__name__:
            concrete = not getattr(found, "__abstractmethods__", frozenset())
            if concrete and found.__name__.lower() == wanted:
                return found
    return None
