"""The step evaluate: an artifact and a dataset in, a report with intervals and pictures out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.artifact import Model, load
from components.data.dataset import Dataset
from components.errors import FailedError, UserError
from components.evaluation.image import (
    NEIGHBOURS,
    RESAMPLES,
    eight_bit,
    held_out,
    independent_pixels,
    measure,
)
from components.evaluation.intervals import average
from components.evaluation.judge import Features, features_for, rows
from components.evaluation.memorization import nearest_picture
from components.evaluation.report import Metric, Report, read_report, write_report
from components.families.family import Requests
from components.families.sampling import mix
from components.modalities.image import grid

VERSION = 1
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
WIDTH = 64
"""Rows that the model computes at once, the same for all models, whatever width they are served at."""
FEWEST, MOST = 1_000, 10_000
"""The samples that are drawn unless a number is given."""
LEAST = 100
TRAIN_ROWS = 60_000
"""The most train rows that the baseline is fitted on and that samples are compared with."""
SHOWN = 64


def evaluate(
    artifact: Path,
    dataset: Dataset,
    folder: Path,
    cache: Path,
    samples: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure the model in `artifact` on the test split of `dataset`; write report and pictures to `folder`.

    A report that is there for the same artifact, revision and protocol is returned as it is. `cache` keeps
    the fitted features. Raises `UserError` for an artifact that is altered or does not fit the dataset,
    `FailedError` if the model gives values that are not finite.
    """
    started, say = time.perf_counter(), progress or _silent
    model = load(artifact)
    count = _count(model, dataset, samples)
    with one_thread():
        features = features_for(dataset, cache, say)
        protocol = _protocol(dataset, features, count)
        done = _done(folder, model, dataset, protocol)
        if done is not None:
            return done
        metrics, baseline, reference, shown = _measure(model, dataset, features, protocol, say)
        say("looking for the nearest training rows")
        pictures = {
            "samples.png": grid(shown, columns=8),
            "nearest.png": nearest_picture(shown, rows(dataset, "train", TRAIN_ROWS, SEED)),
        }
    for name, picture in pictures.items():
        _write(folder / name, picture)
    report = Report(
        artifact=model.digest,
        family=type(model.family).__module__.rpartition(".")[2],
        dataset=dataset.name,
        revision=dataset.revision,
        protocol=protocol,
        metrics=metrics,
        baseline=baseline,
        reference=reference,
        pictures=tuple(pictures),
        seconds=time.perf_counter() - started,
    )
    write_report(folder / "report.json", report)
    return report


def _done(folder: Path, model: Model, dataset: Dataset, protocol: dict[str, Any]) -> Report | None:
    """The report that is there already for the same artifact, data and protocol, if it is whole with its pictures."""
    if not (folder / "report.json").is_file():
        return None
    try:
        found = read_report(folder / "report.json")
    except UserError:  # damaged: measure again and replace it
        return None
    same = (found.artifact, found.revision, found.protocol) == (model.digest, dataset.revision, protocol)
    whole = all((folder / name).is_file() for name in found.pictures)
    return found if same and whole else None


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core: sums then have one order, so the numbers do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _silent(sentence: str) -> None:
    pass


def _count(model: Model, dataset: Dataset, samples: int | None) -> int:
    """How many samples to draw; raises `UserError` where an evaluation makes no sense."""
    if model.shape.data != dataset.shape.data:
        ours, theirs = ("×".join(map(str, shape)) for shape in (model.shape.data, dataset.shape.data))
        raise UserError(
            f"The model makes rows of {ours} and the dataset “{dataset.name}” has {theirs}; "
            f"evaluate it on its own dataset, “{model.about.dataset}”."
        )
    if dataset.rows("test") <= NEIGHBOURS:
        raise UserError(
            f"The test split of the dataset “{dataset.name}” has {dataset.rows('test')} rows and evaluation "
            f"needs more than {NEIGHBOURS}; add data or raise split.test in params.yaml."
        )
    if samples is not None and samples < LEAST:
        raise UserError(f"An evaluation on {samples} samples says nothing; draw at least {LEAST}.")
    return samples or min(MOST, max(FEWEST, dataset.rows("test")))


def _protocol(dataset: Dataset, features: Features, samples: int) -> dict[str, Any]:
    """All that decides the numbers besides the model and the data."""
    return {
        "version": VERSION,
        "samples": samples,
        "split": "test",
        "held_out": min(samples, dataset.rows("test")),
        "reference": min(samples, dataset.rows("train")),
        "features": features.name,
        "dimension": features.dimension,
        "judge_accuracy": features.accuracy,
        "features_digest": features.digest[:16],
        "neighbours": NEIGHBOURS,
        "resamples": RESAMPLES,
        "seed": SEED,
        "width": WIDTH,
    }


Measured = tuple[dict[str, Metric], dict[str, Metric], dict[str, Metric], Tensor]


def _measure(
    model: Model,
    dataset: Dataset,
    features: Features,
    protocol: dict[str, Any],
    say: Callable[[str], None],
) -> Measured:
    """The metrics of the model, of the trivial model and of train rows, and the first samples [64, C, H, W]."""
    count = protocol["samples"]
    kept: list[Tensor] = []
    vectors = []
    for part in _samples(model, count, say):
        vectors.append(features.of(part))
        if len(kept) * WIDTH < SHOWN:
            kept.append(part)
    say("measuring the held-out and the training rows")
    test = [features.of(batch.data) for batch in rows(dataset, "test", protocol["held_out"], SEED)]
    train = [features.of(batch.data) for batch in rows(dataset, "train", protocol["reference"], SEED)]
    noise = independent_pixels(rows(dataset, "train", TRAIN_ROWS, SEED), count, mix(SEED, 2))
    trivial = [features.of(part) for part in noise]
    say("comparing samples with the test split")
    real = held_out(torch.cat(test), SEED)
    metrics, baseline, reference = (
        measure(features.name, real, torch.cat(parts), SEED) for parts in (vectors, trivial, train)
    )
    say("measuring the likelihood of the test split")
    return metrics | _likelihood(model, dataset, protocol["held_out"]), baseline, reference, torch.cat(kept)


def _samples(model: Model, count: int, say: Callable[[str], None]) -> Iterator[Tensor]:
    """`count` samples as clients get them, in parts [n, C, H, W] of `WIDTH`, from the seeds 0, 1, …"""
    said = -1
    for first in range(0, count, WIDTH):
        if (percent := 100 * first // count) > said:
            said = percent
            say(f"drawing samples … {percent}%")
        seed = torch.arange(first, min(first + WIDTH, count)) + SEED
        yield eight_bit(_finite(model.sample(Requests(seed=seed), WIDTH), "samples"))


def _likelihood(model: Model, dataset: Dataset, count: int) -> dict[str, Metric]:
    """The held-out negative ELBO in nats a row, for families that have one."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(mix(SEED, 3))
        parts = [model.family.nats(model.networks, batch) for batch in rows(dataset, "test", count, SEED)]
    nats = [part for part in parts if part is not None]
    if not nats:
        return {}
    better = model.modality.metrics["negative_elbo_nats"]
    values = _finite(torch.cat(nats), "likelihoods of test rows")
    return {"negative_elbo_nats": Metric(*average(values), better)}


def _finite(values: Tensor, what: str) -> Tensor:
    """`values` as they are; raises `FailedError` if one is infinite or no number."""
    if not bool(values.isfinite().all()):
        raise FailedError(f"The model's {what} are not all finite; train it again, with a smaller model.lr.")
    return values


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
