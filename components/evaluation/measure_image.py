"""Pictures: how they are measured by class, caption or source, and what is seen inside the models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from components.data.dataset import Dataset
from components.evaluation.by_prompt import ByPrompt
from components.evaluation.by_source import by_source, unpaired
from components.evaluation.condition import Condition
from components.evaluation.explore import Inside, explored
from components.evaluation.featured import SEED, FeatureMeasurement
from components.evaluation.measurement import LEAST, Say, Subject
from components.evaluation.view import View

PIXELS, WIDEST = 2**16, 64
"""The pixels, and the rows, that the model computes at once, the same for all models."""


class ImageMeasurement(FeatureMeasurement):
    """Distances of features between samples and the test split, and how far samples are what was asked."""

    name: ClassVar[str] = "image"

    def viewed(self, dataset: Dataset) -> View:
        """Pictures are looked at as they are."""
        return View()

    def at_once(self) -> int:
        """Fewer where pictures are large."""
        _, height, width = self.dataset.shape.data
        return max(1, min(WIDEST, PIXELS // (height * width)))

    def comparable(self) -> bool:
        """Of a dozen pictures that are wanted as they are features say nothing; of two domains nothing else does."""
        return self.dataset.shape.source is None or unpaired(self.dataset) or self.held_out >= LEAST

    def conditioned(self, cache: Path, say: Say) -> Condition:
        """Captions and sources besides classes."""
        if self.dataset.shape.prompt:
            return ByPrompt(self.dataset, self.test, cache, say, SEED, self.width)
        if self.dataset.shape.source:
            return by_source(self.dataset, self.test, self.features)
        return super().conditioned(cache, say)

    def inside(self, subject: Subject, say: Say) -> Inside:
        """Interpolations and more, of models with latents or attention."""
        say("looking inside")
        return explored(subject, self.condition, self.test, self.width, SEED)
