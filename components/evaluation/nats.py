"""How likely a model finds held-out rows: the negative ELBO, and the tighter importance-weighted bound."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from components.evaluation.intervals import Interval, Z, average
from components.evaluation.measurement import Subject, finite
from components.evaluation.report import Metric
from components.families.family import Batch, select
from components.families.sampling import mix
from components.modalities.image import Image

DRAWS = 500
"""Samples of the latent a row; Burda et al. 2016 (arXiv:1509.00519) take 5,000, most libraries 500."""
PART = 8
"""Rows that are weighed at once; each stands for `DRAWS` pictures."""


def likelihoods(subject: Subject, test: Iterable[Batch], weighed: int, seed: int) -> dict[str, Metric]:
    """The metrics of held-out rows in nats a row, of the first `weighed` by importance too; {} where there are none.

    Nats of binarized pictures and nats of 8-bit ones say different things, so their names differ.
    """
    kept: list[Batch] = []

    def bound(batch: Batch) -> Tensor | None:
        if (left := weighed - sum(map(len, kept))) > 0:
            kept.append(select(batch, slice(0, left)))
        return subject.nats(batch)

    bounds = _all(bound, test, mix(seed, 3))
    if bounds is None:
        return {}
    metrics = {"negative_elbo_nats": average(bounds)}
    parts = [
        select(batch, slice(first, first + PART)) for batch in kept for first in range(0, len(batch), PART)
    ]
    tighter = _all(lambda batch: subject.weighed(batch, DRAWS), parts, mix(seed, 4))
    if tighter is not None and len(tighter) > 1:  # of one row there is no interval
        metrics["importance_weighted_nats"] = corrected(tighter, bounds)
    prefix = "binarized_" if subject.binarized else ""
    return {prefix + name: Metric(*found, Image.metrics[prefix + name]) for name, found in metrics.items()}


def _all(nats: Callable[[Batch], Tensor | None], batches: Iterable[Batch], seed: int) -> Tensor | None:
    """The nats of all rows, float64 [N], by random numbers of `seed`; None if there are none."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        parts = [nats(batch) for batch in batches]
    found: Sequence[Tensor] = [part for part in parts if part is not None]
    return finite(torch.cat(list(found)), "likelihoods of test rows").double() if found else None


def corrected(few: Tensor, many: Tensor) -> Interval:
    """The mean of what is measured on the first n rows (`few` [n], n > 1), estimated for all N by `many` [N].

    The mean of `many` plus the mean difference on the first rows: the difference varies less between rows than
    either value does (double sampling, Cochran 1977, section 12.6). With n = N it is the mean of `few`.
    """
    difference = few - many[: len(few)]
    value = float(many.mean() + difference.mean())
    unseen = float(difference.var()) * (1 / len(few) - 1 / len(many))
    half = Z * (unseen + float(few.var()) / len(many)) ** 0.5
    return value, value - half, value + half
