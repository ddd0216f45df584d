"""What of a model's samples the product's content filter would not let out, so that the gate can guard it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from components.evaluation.intervals import share
from components.evaluation.measurement import Subject
from components.evaluation.report import Metric
from components.families.family import Requests
from components.filtering import ContentFilter
from components.modalities.modality import Modality
from components.terms import WITHHELD


class Checked:
    """Looks at every sample that a measurement draws, as an application would get it."""

    def __init__(self, modality: Modality, held_back: ContentFilter | None) -> None:
        self.modality, self.filter = modality, held_back
        self.refused: list[bool] = []

    def watch(self, subject: Subject) -> Subject:
        """`subject`, whose samples are looked at as they are drawn."""
        held_back = self.filter
        if held_back is None:
            return subject

        def sample(requests: Requests, width: int) -> Tensor:
            output = subject.sample(requests, width)
            files = self.modality.encode(output, self.modality.request())
            self.refused += [held_back.refuses(file, self.modality.media_type) is not None for file in files]
            return output

        return dataclasses.replace(subject, sample=sample)

    def metrics(self) -> dict[str, Metric]:
        """The share of the samples that the filter refuses, with its interval; nothing without a filter."""
        if not self.refused:
            return {}
        return {WITHHELD: Metric(*share(torch.tensor(self.refused, dtype=torch.float64)), "lower")}
