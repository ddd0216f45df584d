"""What measures a model: one class for each modality, which sees samples, held-out rows and nats, never a family."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from components.data.dataset import Dataset
from components.errors import FailedError, UserError
from components.evaluation.report import Metric
from components.families.family import Batch, Requests

Say = Callable[[str], None]
Looked = tuple[Tensor, Tensor]
LEAST = 100
"""The fewest samples that may be asked for."""
WEIGHED = 100
"""The held-out rows whose likelihood is estimated by importance weighting, which costs hundreds of draws a row."""


@dataclass(frozen=True)
class Extent:
    """How much is measured: samples (None leaves it to the measurement), and rows for importance weighting."""

    samples: int | None = None
    weighed: int = WEIGHED


def _nothing(*_: object) -> None:
    """What a model answers that cannot do what is asked."""
    return


@dataclass(frozen=True)
class Subject:
    """All that a measurement may ask of a model; every answer but samples may be None.

    `sample` gives the finished outputs [N, …] of requests, computed `width` rows at a time (its second argument);
    `nats` gives −log p of rows [N] or a bound on it, `weighed` a tighter bound by so many importance-weighted draws
    (its second argument); `binarized` says that both are of pictures whose values were drawn black or white by
    their grey level, and not of 8-bit ones. `latents` gives the latents [N, L] from which requests would be drawn,
    where the request's option `latent` may replace them; `encode` gives those of data. `looks` gives finished
    outputs with the weights [N, places, seen] of an attention that made them. `book` says how the training data use
    the codes of a family that has such.
    """

    sample: Callable[[Requests, int], Tensor]
    nats: Callable[[Batch], Tensor | None]
    weighed: Callable[[Batch, int], Tensor | None] = _nothing
    encode: Callable[[Tensor], Tensor | None] = _nothing
    latents: Callable[[Requests], Tensor | None] = _nothing
    looks: Callable[[Requests], Looked | None] = _nothing
    binarized: bool = False
    book: Callable[[], Mapping[str, float]] = dict


@dataclass(frozen=True)
class Measured:
    """The metrics of the model, of a trivial model and of real rows; `files` lie beside the report.

    `facts` are numbers that are neither better nor worse: name → column (model, baseline, real) → value.
    """

    metrics: Mapping[str, Metric]
    baseline: Mapping[str, Metric]
    reference: Mapping[str, Metric]
    files: Mapping[str, bytes]
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Measurement(ABC):
    """How models of one modality are measured on one dataset.

    `protocol` is all that decides the numbers besides the model and the data.
    """

    name: ClassVar[str]
    protocol: Mapping[str, Any]

    @abstractmethod
    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        """Prepare what does not depend on the model; raises `UserError` where an evaluation makes no sense.

        The shape of `dataset` holds the conditions that the model's requests carry, and no others.
        """

    @abstractmethod
    def measure(self, subject: Subject, say: Say) -> Measured:
        """Measure one model."""


def measurement_of(modality: str) -> type[Measurement]:
    """The measurement of the modality's module `measure_<modality>` in this folder."""
    module = importlib.import_module(f"components.evaluation.measure_{modality}")
    found: type[Measurement] = getattr(module, f"{modality.capitalize()}Measurement")
    return found


def enough(samples: int | None) -> None:
    """Raise `UserError` if so few samples are asked for that they say nothing."""
    if samples is not None and samples < LEAST:
        raise UserError(f"An evaluation on {samples} samples says nothing; draw at least {LEAST}.")


def finite(values: Tensor, what: str) -> Tensor:
    """`values` as they are; raises `FailedError` if one is infinite or no number."""
    if not bool(values.isfinite().all()):
        raise FailedError(f"The model's {what} are not all finite; train it again, with a smaller model.lr.")
    return values
