"""Images: samples against held-out rows on features, beside independent pixels and train rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation.image import (
    NEIGHBOURS,
    RESAMPLES,
    eight_bit,
    held_out,
    independent_pixels,
    measure,
)
from components.evaluation.intervals import average
from components.evaluation.judge import features_for, rows
from components.evaluation.measurement import Measured, Measurement, Say, Subject, enough, finite
from components.evaluation.memorization import nearest_picture
from components.evaluation.report import Metric
from components.families.family import Requests
from components.families.sampling import mix
from components.modalities.image import Image, grid

VERSION = 1
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
WIDTH = 64
"""Rows that the model computes at once, the same for all models, whatever width they are served at."""
FEWEST, MOST = 1_000, 10_000
"""The samples that are drawn unless a number is given."""
TRAIN_ROWS = 60_000
"""The most train rows that the baseline is fitted on and that samples are compared with."""
SHOWN = 64


class ImageMeasurement(Measurement):
    """Distances of features between samples and the test split."""

    name: ClassVar[str] = "image"

    def __init__(self, dataset: Dataset, cache: Path, samples: int | None, say: Say) -> None:
        count = _count(dataset, samples)
        self.dataset = dataset
        self.features = features_for(dataset, cache, say)
        self.samples, self.held_out = count, min(count, dataset.rows("test"))
        self.reference = min(count, dataset.rows("train"))
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
            "seed": SEED,
            "width": WIDTH,
        }

    def measure(self, subject: Subject, say: Say) -> Measured:
        """The metrics of the model, of the trivial model and of train rows."""
        kept: list[Tensor] = []
        vectors = []
        for part in _samples(subject, self.samples, say):
            vectors.append(self.features.of(part))
            if len(kept) * WIDTH < SHOWN:
                kept.append(part)
        say("measuring the held-out and the training rows")
        dataset, features = self.dataset, self.features
        test = [features.of(batch.data) for batch in rows(dataset, "test", self.held_out, SEED)]
        train = [features.of(batch.data) for batch in rows(dataset, "train", self.reference, SEED)]
        noise = independent_pixels(rows(dataset, "train", TRAIN_ROWS, SEED), self.samples, mix(SEED, 2))
        trivial = [features.of(part) for part in noise]
        say("comparing samples with the test split")
        real = held_out(torch.cat(test), SEED)
        metrics, baseline, reference = (
            measure(features.name, real, torch.cat(parts), SEED) for parts in (vectors, trivial, train)
        )
        say("measuring the likelihood of the test split")
        metrics |= self._likelihood(subject)
        say("looking for the nearest training rows")
        return Measured(metrics, baseline, reference, self._pictures(torch.cat(kept)))

    def _pictures(self, shown: Tensor) -> dict[str, bytes]:
        near = nearest_picture(shown, rows(self.dataset, "train", TRAIN_ROWS, SEED))
        return {"samples.png": grid(shown, columns=8), "nearest.png": near}

    def _likelihood(self, subject: Subject) -> dict[str, Metric]:
        """The held-out negative ELBO in nats a row, for models that have one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(SEED, 3))
            parts = [subject.nats(batch) for batch in rows(self.dataset, "test", self.held_out, SEED)]
        nats = [part for part in parts if part is not None]
        if not nats:
            return {}
        values = finite(torch.cat(nats), "likelihoods of test rows")
        return {"negative_elbo_nats": Metric(*average(values), Image.metrics["negative_elbo_nats"])}


def _count(dataset: Dataset, samples: int | None) -> int:
    """How many samples to draw; raises `UserError` where an evaluation makes no sense."""
    if dataset.rows("test") <= NEIGHBOURS:
        raise UserError(
            f"The test split of the dataset “{dataset.name}” has {dataset.rows('test')} rows and evaluation "
            f"needs more than {NEIGHBOURS}; add data or raise split.test in params.yaml."
        )
    enough(samples)
    return samples or min(MOST, max(FEWEST, dataset.rows("test")))


def _samples(subject: Subject, count: int, say: Say) -> Iterator[Tensor]:
    """`count` samples as clients get them, in parts [n, C, H, W] of `WIDTH`, from the seeds 0, 1, …"""
    said = -1
    for first in range(0, count, WIDTH):
        if (percent := 100 * first // count) > said:
            said = percent
            say(f"drawing samples … {percent}%")
        seed = torch.arange(first, min(first + WIDTH, count)) + SEED
        yield eight_bit(finite(subject.sample(Requests(seed=seed), WIDTH), "samples"))
