"""Rows that are asked for by class: does the judge recognise them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from components.evaluation.condition import Condition, Values
from components.evaluation.judge import Features, labels
from components.evaluation.measurement import Subject
from components.evaluation.sheet import sheet
from components.families.family import Batch, Requests

ACROSS, DOWN = 10, 20
"""Samples of a class in a row, and the most classes that are shown."""


class ByLabel(Condition):
    """Samples are asked for by the labels of the held-out rows, so that their classes have the split's shares."""

    protocol: Mapping[str, Any] = {"asked": "labels of held-out rows"}

    def __init__(self, features: Features, classes: Sequence[str], width: int) -> None:
        self.features, self.classes, self.width = features, classes, width
        self.view = features.view

    def requests(self, asked: Batch, seed: Tensor) -> Requests:
        """Each with its row's label."""
        return Requests(seed=seed, label=asked.label)

    def obeyed(self, pictures: Tensor, asked: Batch) -> Values:
        """Whether the judge sees the asked class."""
        if self.features.name != "judge":
            return {}
        return {"class_accuracy": self.features.recognised(pictures).eq(labels(asked)).double()}

    def pictures(self, subject: Subject, samples: Tensor) -> Mapping[str, bytes]:
        """A row of samples for each class, under one row of seeds."""
        names = list(self.classes[:DOWN])
        seed = torch.arange(ACROSS).repeat(len(names))
        label = torch.arange(len(names)).repeat_interleave(ACROSS)
        drawn = self.view.rounded(subject.sample(Requests(seed=seed, label=label), self.width))
        lines = torch.stack(torch.split(self.view.shown(drawn), ACROSS))
        return {"samples.png": sheet(lines, names, target=self.view.target)}
