"""How trials are compared: by a metric of the evaluation, or by likelihood alone, on validation rows."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from components import accelerator
from components.artifact import load
from components.data.dataset import Dataset
from components.errors import FailedError, UserError, unknown
from components.evaluation.evaluate import evaluate
from components.evaluation.judge import rows
from components.evaluation.measurement import WEIGHED
from components.evaluation.subject import subject_of
from components.evaluation.validation import Validation
from components.families.family import Kind
from components.modalities.modality import Direction
from components.terms import Terms
from components.train.step import predicted

NATS = "nats"
"""The metric that needs no samples: −log p of validation data or a bound on it, a row, or of tokens a token."""
ROWS = 10_000
"""The most rows of which it is taken."""
SEED = 0


class UnmeasuredError(UserError):
    """What is asked for cannot be measured of any trial."""


@dataclass(frozen=True)
class Score:
    """A metric as it was measured, and the direction in which it is better."""

    metric: str
    better: Direction
    value: float

    @property
    def cost(self) -> float:
        """The same so that less is better."""
        return -self.value if self.better == "higher" else self.value


def measure(artifact: Path, held_out: Validation, metric: str, cache: Path, terms: Terms) -> Score:
    """Measure a model on validation rows; without a `metric` by the first that its evaluation reports.

    Raises `UnmeasuredError` if its evaluation has no such metric, `FailedError` if the value is not finite.
    """
    if metric == NATS:
        return Score(NATS, "lower", _finite(NATS, _nats(artifact, held_out)))
    weighed = WEIGHED if "importance" in metric else 0
    with tempfile.TemporaryDirectory() as folder:  # its protocol says test, and its pictures nobody asked for
        report = evaluate(artifact, held_out, Path(folder) / "report", cache, weighed=weighed, terms=terms)
    name = metric or next(iter(report.metrics))
    if name not in report.metrics:
        raise UnmeasuredError(f"No trial can be compared: {unknown('metric', name, [*report.metrics, NATS])}")
    found = report.metrics[name]
    return Score(name, found.better, _finite(name, found.value))


def _nats(artifact: Path, held_out: Dataset) -> float:
    """The mean −log p of validation data in nats: of rows, or of the tokens that are predicted."""
    subject = subject_of(load(artifact, accelerator.device()))
    total, count = 0.0, 0
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(SEED)
        for batch in rows(held_out, "test", ROWS, SEED):
            nats = subject.nats(batch)
            if nats is None:
                raise UnmeasuredError(
                    "The metric nats needs a family that says how likely data are, and this one does not; leave out "
                    "--metric, or name a metric of the evaluation."
                )
            total += float(nats.double().sum())
            tokens = held_out.tensors.kind is Kind.TOKENS
            count += int(predicted(batch)) if tokens else len(batch)
    return total / count


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise FailedError(f"The metric {name} is {value}; train with a smaller model.lr.")
    return value
