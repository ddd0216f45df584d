"""What samples are asked for and how far they obey: one class for each thing that a request may carry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from components.evaluation.asked import Asked
from components.evaluation.intervals import average, share
from components.evaluation.measurement import Say, Subject
from components.evaluation.report import Metric
from components.evaluation.view import View
from components.families.family import Requests
from components.modalities.image import Image, grid

SHARES = frozenset({"class_accuracy"})
"""The metrics that count hits; the others are means."""

Values = Mapping[str, Tensor]
"""By metric, what each picture is worth, [N]."""
Facts = Mapping[str, Mapping[str, float]]
"""By fact and column (model, baseline, real), a number that is neither better nor worse."""


class Condition(ABC):
    """What the requests of samples carry, taken from held-out rows in turn.

    `protocol` is what decides the numbers besides the model and the data; `leads` says that the condition's own
    metrics come before those of the features; `view` is how people see the rows.
    """

    protocol: Mapping[str, Any]
    leads: ClassVar[bool] = False
    view: View = View()

    @abstractmethod
    def requests(self, asked: Asked, seed: Tensor) -> Requests:
        """The requests for pictures as the held-out rows `asked` are, with these seeds [N]."""

    def finished(self, pictures: Tensor, asked: Asked) -> Tensor:
        """The pictures [N, C, H, W] that a model drew for `asked` as clients get them."""
        return pictures

    def obeyed(self, pictures: Tensor, asked: Asked) -> Values:
        """How far pictures [N, C, H, W] of any origin are what the rows `asked` ask for."""
        return {}

    def real(self, asked: Asked) -> Values:
        """The same of the held-out rows themselves."""
        return self.obeyed(asked.data, asked)

    def trivial(self, asked: Asked) -> Tensor | None:
        """What a trivial model answers, [N, C, H, W]; None leaves it to independent pixels."""
        return None

    def chance(self) -> Mapping[str, Metric]:
        """What guessing gives, where that is known without pictures."""
        return {}

    def facts(self, subject: Subject, say: Say) -> Facts:
        """Numbers beside the metrics."""
        return {}

    def pictures(self, subject: Subject, samples: Tensor) -> Mapping[str, bytes]:
        """Files for people to look at, by name; `samples` [N, …] are the first that were drawn."""
        return {"samples.png": grid(self.view.shown(samples), columns=8, target=self.view.target)}


class Free(Condition):
    """Nothing is asked for."""

    protocol: Mapping[str, Any] = {"asked": "nothing"}

    def __init__(self, view: View | None = None) -> None:
        self.view = view or self.view

    def requests(self, asked: Asked, seed: Tensor) -> Requests:
        """Seeds alone."""
        return Requests(seed=seed)


def summed(values: Values, held_out: int) -> dict[str, Metric]:
    """The metrics of pictures that were asked for by `held_out` rows in turn.

    Pictures that one row asks for depend on each other, so of means the interval is over rows. What no picture has a
    value of is left out.
    """
    found = {}
    for name, each in values.items():
        if len(each) == 0:
            continue
        interval = share(each) if name in SHARES else average(_by_row(each.double(), held_out))
        found[name] = Metric(*interval, Image.metrics[name])
    return found


def _by_row(values: Tensor, held_out: int) -> Tensor:
    """The mean over the passes for each row, [rows]."""
    place = torch.arange(len(values)) % held_out
    count = min(held_out, len(values))
    total = torch.zeros(count, dtype=values.dtype).index_add_(0, place, values)
    return total / torch.bincount(place, minlength=count)


def gathered(parts: Sequence[Values]) -> Values:
    """The values of all parts."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
