"""Samples against held-out rows on features, beside independent values and train rows: of pictures and of sound."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation.asked import PART, Rows
from components.evaluation.by_label import ByLabel
from components.evaluation.condition import Condition, Free, Values, gathered, summed
from components.evaluation.explore import Inside
from components.evaluation.image import (
    NEIGHBOURS,
    RESAMPLES,
    HeldOut,
    held_out,
    independent_pixels,
    measure,
)
from components.evaluation.judge import features_for, rows
from components.evaluation.measurement import (
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
from components.evaluation.view import View
from components.families.family import Batch, select
from components.families.sampling import mix

VERSION = 4
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
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


class FeatureMeasurement(Measurement):
    """Distances of features between samples and the test split, and how far samples are what was asked.

    What a modality has of its own: the `view` of its rows, how many rows are computed at once, and the files.
    """

    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        count = _count(dataset, extent.samples)
        self.dataset, self.view = dataset, self.viewed(dataset)
        self.features = features_for(dataset, cache, say, self.view)
        self.test = Rows(dataset, "test", count, SEED)
        self.samples, self.held_out = count, len(self.test)
        self.compares = self.comparable()
        self.reference = min(count, dataset.rows("train")) if self.compares else 0
        self.weighed = min(extent.weighed, self.held_out)
        self.width = self.at_once()
        self.condition = self.conditioned(cache, say)
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
            **({"features_of": self.view.name} if self.view.name else {}),
            **self.condition.protocol,
        }

    @abstractmethod
    def viewed(self, dataset: Dataset) -> View:
        """How the rows of `dataset` are looked at."""

    @abstractmethod
    def at_once(self) -> int:
        """The rows that the model computes at once, the same for all models."""

    @property
    def measured_at_once(self) -> int:
        """The rows whose likelihood is computed at once, which decides the random numbers of a bound."""
        return PART

    def comparable(self) -> bool:
        """Whether the features of samples say something about them."""
        return True

    def conditioned(self, cache: Path, say: Say) -> Condition:
        """What the model's requests carry, as the shape says."""
        if self.dataset.shape.classes:
            return ByLabel(self.features, self.dataset.classes, self.width)
        return Free(self.view)

    def inside(self, subject: Subject, say: Say) -> Inside:
        """What a look into the model shows."""
        return Inside()

    def files(self, subject: Subject, shown: Tensor) -> Mapping[str, bytes]:
        """What lies beside the report of the first samples, `shown` [N, …]: pictures, and what else a person takes."""
        return self.condition.pictures(subject, shown)

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
        metrics |= likelihoods(subject, self._binned(), self.weighed, SEED)
        facts = self.condition.facts(subject, say)
        inside = self.inside(subject, say)
        say("looking for the nearest training rows")
        shown = torch.cat(drawn.shown)
        files = {**self.files(subject, shown), "nearest.png": self._nearest(shown), **inside.files}
        book = {f"codebook_{name}": {"model": value} for name, value in subject.book().items()}
        chance = self.condition.chance()
        return Measured(metrics, {**baseline, **chance}, reference, files, {**facts, **inside.facts, **book})

    def _binned(self) -> Iterator[Batch]:
        """The held-out rows of which the likelihood is measured, so many at a time as are computed at once."""
        for asked, _ in self.test.parts():
            rows = replace(asked, data=self.view.binned(asked.data))
            for first in range(0, len(rows), self.measured_at_once):
                yield select(rows, slice(first, first + self.measured_at_once))

    def _drawn(self, subject: Subject, say: Say) -> Column:
        """Samples as clients get them, from the seeds 0, 1, …, asked for by held-out rows in turn."""
        found, said = Column(), -1
        for asked, places in self.test.parts(self.samples):
            if (percent := 100 * int(places[0]) // self.samples) > said:
                said = percent
                say(f"drawing samples … {percent}%")
            requests = self.condition.requests(asked, places + SEED)
            drawn = self.view.rounded(finite(subject.sample(requests, self.width), "samples"))
            pictures = self.condition.finished(drawn, asked)
            found.add(self.features.of(pictures), self.condition.obeyed(pictures, asked), pictures)
        return found

    def _trivial(self) -> Column:
        """As many rows of the trivial model, asked for in the same way."""
        found = Column()
        train = self._train(TRAIN_ROWS)
        sizes = [min(PART, self.samples - first) for first in range(0, self.samples, PART)]
        noise = independent_pixels(train, sizes, mix(SEED, 2), self.view.rounded)
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

    def _nearest(self, shown: Tensor) -> bytes:
        """Samples beside the train rows that people see nearest to them."""
        train = (replace(batch, data=self.view.shown(batch.data)) for batch in self._train(TRAIN_ROWS))
        return nearest_picture(self.view.shown(shown), train, self.view.target)


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
