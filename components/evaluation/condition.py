"""What samples are asked for and how far they obey: one class for each thing that a request may carry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.intervals import average, share
from components.evaluation.judge import rows
from components.evaluation.measurement import Say, Subject
from components.evaluation.report import Metric
from components.families.family import Batch, Requests
from components.modalities.image import Image, grid

SHOWN = 64
SHARES = frozenset({"class_accuracy"})
"""The metrics that count hits; the others are means."""

Values = Mapping[str, Tensor]
"""By metric, what each picture is worth, [N]."""


class Condition(ABC):
    """What the requests of samples carry, taken from held-out rows in turn.

    `protocol` is what decides the numbers besides the model and the data; `leads` says that the condition's own
    metrics come before those of the features.
    """

    protocol: Mapping[str, Any]
    leads: ClassVar[bool] = False

    @abstractmethod
    def requests(self, asked: Batch, seed: Tensor) -> Requests:
        """The requests for pictures as the held-out rows `asked` are, with these seeds [N]."""

    def obeyed(self, pictures: Tensor, asked: Batch) -> Values:
        """How far pictures [N, C, H, W] of any origin are what the rows `asked` ask for."""
        return {}

    def real(self, asked: Batch) -> Values:
        """The same of the held-out rows themselves."""
        return self.obeyed(asked.data, asked)

    def trivial(self, asked: Batch) -> Tensor | None:
        """What a trivial model answers, [N, C, H, W]; None leaves it to independent pixels."""
        return None

    def facts(self, subject: Subject, say: Say) -> Mapping[str, Mapping[str, float]]:
        """Numbers beside the metrics that are neither better nor worse."""
        return {}

    def pictures(self, subject: Subject, samples: Tensor) -> Mapping[str, bytes]:
        """Files for people to look at, by name; `samples` [N, C, H, W] are the first that were drawn."""
        return {"samples.png": grid(samples[:SHOWN], columns=8)}


class Free(Condition):
    """Nothing is asked for."""

    protocol: Mapping[str, Any] = {"asked": "nothing"}

    def requests(self, asked: Batch, seed: Tensor) -> Requests:
        """Seeds alone."""
        return Requests(seed=seed)


def asked_rows(dataset: Dataset, held_out: int, count: int, seed: int) -> Iterator[tuple[Batch, Tensor]]:
    """`count` held-out rows, over and over in one order, in parts of at most 64, with their places 0, 1, … [n]."""
    first = 0
    while first < count:
        for batch in rows(dataset, "test", min(held_out, count - first), seed):
            yield batch, torch.arange(first, first + len(batch))
            first += len(batch)


def summed(values: Values, held_out: int) -> dict[str, Metric]:
    """The metrics of pictures that were asked for by `held_out` rows in turn.

    Pictures that one row asks for depend on each other, so of means the interval is over rows.
    """
    found = {}
    for name, each in values.items():
        interval = share(each) if name in SHARES else average(_by_row(each.double(), held_out))
        found[name] = Metric(*interval, Image.metrics[name])
    return found


def _by_row(values: Tensor, held_out: int) -> Tensor:
    """The mean over the passes for each row, [rows]."""
    place = torch.arange(len(values)) % held_out
    count = min(held_out, len(values))
    total = torch.zeros(count, dtype=values.dtype).index_add_(0, place, values)
    return total / torch.bincount(place, minlength=count)


def gathered(parts: list[Values]) -> Values:
    """The values of all parts."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
