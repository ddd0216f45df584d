"""Images: samples against held-out rows on features, beside independent pixels and train rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation.asked import PART, Rows
from components.evaluation.by_label import ByLabel
from components.evaluation.by_prompt import ByPrompt
from components.evaluation.by_source import by_source, unpaired
from components.evaluation.condition import Condition, Free, Values, gathered, summed
from components.evaluation.explore import explored
from components.evaluation.image import (
    NEIGHBOURS,
    RESAMPLES,
    HeldOut,
    eight_bit,
    held_out,
    independent_pixels,
    measure,
)
from components.evaluation.judge import features_for, rows
from components.evaluation.measurement import (
    LEAST,
    Extent,
    Measured,
    Measurement,
    Say,
    Subject,
    enough,
    finite,
)
from components.evaluation.memorization import nearest_picture
from components.evaluation.nats import DRAWS, likelihoods
from components.evaluation.report import Metric
from components.families.family import Batch
from components.families.sampling import mix

VERSION = 4
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
PIXELS, WIDEST = 2**16, 64
"""The pixels, and the rows, that the model computes at once, the same for all models."""
FEWEST, MOST = 1_000, 10_000
"""The samples that are drawn unless a number is given."""
TRAIN_ROWS = 60_000
"""The most train rows that the baseline is fitted on and that samples are compared with."""
SHOWN = 64


@dataclass
class Column:
    """What is gathered of one column: features, how far pictures obey, and the first of them."""

    features: list[Tensor] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    shown: list[Tensor] = field(default_factory=list)

    def add(self, features: Tensor, values: Values, pictures: Tensor) -> None:
        """Take a part; the first `SHOWN` pictures are kept."""
        self.features.append(features)
        self.values.append(values)
        if (left := SHOWN - sum(map(len, self.shown))) > 0:
            self.shown.append(pictures[:left])


class ImageMeasurement(Measurement):
    """Distances of features between samples and the test split, and how far samples are what was asked."""

    name: ClassVar[str] = "image"

    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        count = _count(dataset, extent.samples)
        self.dataset = dataset
        self.features = features_for(dataset, cache, say)
        self.test = Rows(dataset, "test", count, SEED)
        self.samples, self.held_out = count, len(self.test)
        # the features of a dozen pictures that are wanted as they are say nothing; of two domains nothing else does
        self.compares = dataset.shape.source is None or unpaired(dataset) or self.held_out >= LEAST
        self.reference = min(count, dataset.rows("train")) if self.compares else 0
        self.weighed = min(extent.weighed, self.held_out)
        self.width = _width(dataset)
        self.condition = self._condition(cache, say)
        self.protocol = {
            "version": VERSION,
            "samples": count,
            "split": "test",
            "held_out": self.held_out,
            "reference": self.reference,
            "features": self.features.name,
            "dimension": self.features.dimension,
            "judge_accuracy": self.features.accuracy,
            "features_digest": self.features.digest[:16],
            "neighbours": NEIGHBOURS,
            "resamples": RESAMPLES,
            "weighed": self.weighed,
            "draws": DRAWS,
            "seed": SEED,
            "width": self.width,
            **self.condition.protocol,
        }

    def _condition(self, cache: Path, say: Say) -> Condition:
        """What the model's requests carry, as the shape says."""
        shape = self.dataset.shape
        if shape.prompt:
            return ByPrompt(self.dataset, self.test, cache, say, SEED, self.width)
        if shape.source:
            return by_source(self.dataset, self.test, self.features)
        if shape.classes:
            return ByLabel(self.features, self.dataset.classes, self.width)
        return Free()

    def measure(self, subject: Subject, say: Say) -> Measured:
        """The metrics of the model, of the trivial model and of real rows."""
        drawn = self._drawn(subject, say)
        say("measuring the held-out and the training rows")
        trivial, test = self._trivial(), Column()
        for asked, _ in self.test.parts():
            test.add(self.features.of(asked.data), self.condition.real(asked), asked.data)
        train = [self.features.of(batch.data) for batch in self._train(self.reference)]
        say("comparing samples with the test split")
        real = held_out(torch.cat(test.features), SEED) if self.compares else None
        metrics, baseline = self._metrics(real, drawn), self._metrics(real, trivial)
        reference = self._metrics(real, Column(train, test.values))
        say("measuring the likelihood of the test split")
        metrics |= likelihoods(subject, (asked for asked, _ in self.test.parts()), self.weighed, SEED)
        facts = self.condition.facts(subject, say)
        say("looking inside")
        inside = explored(subject, self.condition, self.test, self.width, SEED)
        say("looking for the nearest training rows")
        files = {**self._pictures(subject, torch.cat(drawn.shown)), **inside.files}
        book = {f"codebook_{name}": {"model": value} for name, value in subject.book().items()}
        chance = self.condition.chance()
        return Measured(metrics, {**baseline, **chance}, reference, files, {**facts, **inside.facts, **book})

    def _drawn(self, subject: Subject, say: Say) -> Column:
        """Samples as clients get them, from the seeds 0, 1, …, asked for by held-out rows in turn."""
        found, said = Column(), -1
        for asked, places in self.test.parts(self.samples):
            if (percent := 100 * int(places[0]) // self.samples) > said:
                said = percent
                say(f"drawing samples … {percent}%")
            requests = self.condition.requests(asked, places + SEED)
            drawn = eight_bit(finite(subject.sample(requests, self.width), "samples"))
            pictures = self.condition.finished(drawn, asked)
            found.add(self.features.of(pictures), self.condition.obeyed(pictures, asked), pictures)
        return found

    def _trivial(self) -> Column:
        """As many pictures of the trivial model, asked for in the same way."""
        found = Column()
        train = self._train(TRAIN_ROWS)
        sizes = [min(PART, self.samples - first) for first in range(0, self.samples, PART)]
        noise = independent_pixels(train, sizes, mix(SEED, 2))
        for (asked, _), pixels in zip(self.test.parts(self.samples), noise, strict=True):
            answer = self.condition.trivial(asked)
            pictures = pixels if answer is None else answer
            found.add(self.features.of(pictures), self.condition.obeyed(pictures, asked), pictures)
        return found

    def _train(self, count: int) -> Iterator[Batch]:
        """Training rows, seen as the held-out ones are."""
        return rows(self.dataset, "train", count, SEED, plain=True)

    def _metrics(self, real: HeldOut | None, column: Column) -> dict[str, Metric]:
        """All metrics of one column; the first is the primary one."""
        own = summed(gathered(column.values), self.held_out)
        if real is None:
            return own
        of_features = measure(self.features.name, real, torch.cat(column.features), SEED)
        return own | of_features if self.condition.leads else of_features | own

    def _pictures(self, subject: Subject, shown: Tensor) -> dict[str, bytes]:
        near = nearest_picture(shown, self._train(TRAIN_ROWS))
        return {**self.condition.pictures(subject, shown), "nearest.png": near}


def _width(dataset: Dataset) -> int:
    """Rows that are computed at once, fewer where pictures are large."""
    _, height, width = dataset.shape.data
    return max(1, min(WIDEST, PIXELS // (height * width)))


def _count(dataset: Dataset, samples: int | None) -> int:
    """How many samples to draw; raises `UserError` where an evaluation makes no sense."""
    there = dataset.rows("test")
    if there <= NEIGHBOURS:
        raise UserError(
            f"The test split of the dataset “{dataset.name}” has {there} rows and evaluation "
            f"needs more than {NEIGHBOURS}; add data or raise split.test in params.yaml."
        )
    enough(samples)
    if dataset.shape.source:  # each source has its own answer
        return min(there, samples or MOST)
    return samples or min(MOST, max(FEWEST, there))
