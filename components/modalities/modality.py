"""What a modality is: all that differs by data and not by model."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel
from torch import Tensor

from components.families.family import NOTHING, Batch, Family, Kind, Networks, Requests, Shape

Direction = Literal["lower", "higher"]


RUN = 4
"""Tokens in a row by which repetitions are seen: fewer recur in sound text, too."""
DRAW = "draw"
"""The column of random numbers, int64 [N], that a `random` modality gets beside its own when it trains."""


@dataclass(frozen=True)
class Maker:
    """The model that a request is for, and the names of its classes."""

    family: Family
    networks: Networks
    shape: Shape
    classes: Sequence[str] = ()


@dataclass
class Order:
    """The rows that a request asks of a model, and how they become answers.

    Answer i has the seed `seeds[i]` and is made of the rows `parts[i]` by `encode(i, rows)`, which gives a file;
    `labels[i]` is its class by name, or None. The files are of `media_type`, by default the modality's.
    """

    requests: Requests
    seeds: Sequence[int]
    parts: Sequence[slice]
    encode: Callable[[int, Tensor], bytes]
    labels: Sequence[str | None]
    media_type: str | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    def file(self, place: int, output: Tensor) -> bytes:
        """Answer `place` out of the finished `output` of all rows."""
        return self.encode(place, output if len(self) == 1 else output[self.parts[place]])


class Modality(ABC):
    """Arrow rows to tensors and back, the client's request, the bytes it gets, the picture of samples.

    `makes` is what its models make and its data are, in a sentence for a person.
    `assets` are the files that it needs (a tokenizer): they lie in the folder of the prepared data and in that of
    the artifact; those that are `optional` only where the data need them. `extension` is that of a file of
    `media_type`, `suffix` that of the file that `picture` makes; `prefixes` are what a report may put before the name
    of a metric (the features that it was taken on). `gathered` files have no place for a mark and become parts of one
    answer, so that only of what is given out at last a hash is kept.
    """

    name: ClassVar[str]
    makes: ClassVar[str]
    kind: ClassVar[Kind]
    request: ClassVar[type[BaseModel]]
    media_type: ClassVar[str]
    extension: ClassVar[str]
    metrics: ClassVar[Mapping[str, Direction]]
    prefixes: ClassVar[tuple[str, ...]] = ()
    assets: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ".png"
    gathered: ClassVar[bool] = False

    def __init__(self, folder: Path | None) -> None:
        """`folder` holds the assets; it may be None where there are none or only the class is asked."""
        self.folder = folder

    @classmethod
    def reported(cls) -> tuple[str, ...]:
        """Every name that a metric may have in a report of this modality."""
        prefixed = (f"{prefix}_{name}" for prefix in cls.prefixes for name in cls.metrics)
        return (*cls.metrics, *prefixed)

    @property
    def random(self) -> bool:
        """Whether training rows are cut or changed by chance, by the column `DRAW`."""
        return False

    def check(self, shape: Shape) -> None:
        """Raise `UserError` if the assets do not fit weights of this `shape`."""
        return

    def agrees(self, other: Modality) -> bool:
        """Whether the assets of `other` read rows in the same way."""
        return True

    def row_bytes(self, schema: pa.Schema) -> int:
        """The bytes of a row of `columns` where these may be larger than the rows of the file, which are not padded."""
        return 0

    @abstractmethod
    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """The columns that training needs as compact tensors (uint8 pictures, int64 labels), copied once."""

    @abstractmethod
    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """Rows of `columns` as a family sees them."""

    @abstractmethod
    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """The rows of a validated request `body`; raises `UserError` for what the model cannot do."""

    def order(self, body: Any, model: Maker, seeds: Sequence[int]) -> Order:
        """An answer a seed to a validated request `body`, by default one row each. Raises `UserError`."""
        requests = self.requests(body, model, seeds)
        label = requests.label
        return Order(
            requests=requests,
            seeds=seeds,
            parts=[slice(place, place + 1) for place in range(len(seeds))],
            encode=lambda _, rows: self.encode(rows, body)[0],
            labels=[None] * len(seeds) if label is None else [model.classes[own] for own in label.tolist()],
        )

    def asked(self, shape: Shape) -> type[BaseModel]:
        """What a request to a model of this `shape` is read by."""
        return self.request

    def answers(self, body: Any) -> int:
        """How many answers a validated request `body` asks for."""
        return int(body.n)

    def media(self, body: Any) -> str:
        """The media type of the files that answer a validated request `body`."""
        return self.media_type

    def selects(self, body: Any) -> bool:
        """Whether a validated request `body` wants only some of what is drawn."""
        return False

    def warm(self, shape: Shape) -> BaseModel:
        """A small request that takes the way of all others, by which a model is warmed before it serves."""
        return self.request()

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """A request of a few rows, by which the samples of two versions are compared."""
        return self.warm(shape).model_copy(update={"seed": seed})

    def variety(self, output: Tensor) -> list[float]:
        """How much each of several rows of `output` differs from the others; 0 where all are the same.

        Of numbers it is the mean distance to the other rows; of tokens the share of runs of four that neither the
        row nor one before it had, so that rows that repeat themselves or each other have little.
        """
        if not output.is_floating_point():
            return _novelty(output.tolist())
        rows = output.flatten(1).double()
        size = rows.shape[1] * max(1, len(rows) - 1)
        return [float((row - rows).abs().sum()) / size for row in rows]

    @abstractmethod
    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """The finished rows of `output` as files of `media_type`, as the request asks."""

    @abstractmethod
    def picture(self, output: Tensor) -> bytes:
        """All rows of `output` in one file for a person to look at."""

    def progress(self, output: Tensor, requests: Requests) -> bytes:
        """A picture of how training goes: rows of `output`, beside what they were asked for where that can be seen."""
        return self.picture(output)


def _novelty(rows: Sequence[Sequence[int]]) -> list[float]:
    """The share of each row's runs of `RUN` tokens that are new; a shorter row is one run."""
    known: set[tuple[int, ...]] = set()
    found = []
    for row in rows:
        tokens = [token for token in row if token != NOTHING]
        runs = [tuple(tokens[place : place + RUN]) for place in range(max(1, len(tokens) - RUN + 1))]
        before = len(known)
        known.update(runs)
        found.append((len(known) - before) / len(runs))
    return found


def kind_of(name: str) -> type[Modality]:
    """The class of the modality of the module `name` in this folder."""
    module = importlib.import_module(f"components.modalities.{name}")
    found: type[Modality] = getattr(module, name.capitalize())
    assert issubclass(found, Modality)
    return found


def modality_of(name: str, folder: Path | None = None) -> Modality:
    """The modality of the module `name` in this folder, with its assets from `folder`."""
    return kind_of(name)(folder)
