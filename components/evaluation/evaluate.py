"""The step evaluate: an artifact and a dataset in, a report with intervals and pictures out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components import accelerator
from components.artifact import Model, load
from components.data.dataset import Dataset, unreplaced
from components.errors import FailedError, UserError
from components.evaluation.measurement import WEIGHED, Extent, measurement_of
from components.evaluation.report import Report, read_report, write_report
from components.evaluation.subject import subject_of
from components.evaluation.withheld import Checked
from components.families.family import Shape, Task
from components.filtering import open_filter
from components.modalities.audio import Audio
from components.terms import USUAL, Terms


class UnfitError(UserError):
    """The model cannot be measured on this dataset at all."""


def evaluate(
    artifact: Path,
    dataset: Dataset,
    folder: Path,
    cache: Path,
    samples: int | None = None,
    progress: Callable[[str], None] | None = None,
    weighed: int = WEIGHED,
    terms: Terms = USUAL,
) -> Report:
    """Measure the model in `artifact` on the test split of `dataset`; write report and pictures to `folder`.

    The model computes on a GPU where there is one, which the protocol then says: its numbers are rounded otherwise.
    A report that is there for the same artifact, revision and protocol is returned as it is. `cache` keeps
    the fitted features; of the first `weighed` rows the likelihood is estimated by importance weighting. The share
    of samples that the content filter of `terms` would hold back is the metric `withheld`. Raises `UserError` for
    an artifact that is altered or does not fit the dataset, `FailedError` if the model gives values that are not
    finite, if the GPU has no room for it, or if the dataset is prepared anew meanwhile.
    """
    started, say = time.perf_counter(), progress or _silent
    device = accelerator.device()
    with room():
        model = load(artifact, device)
    check_fit(model, dataset)
    asked = dataclasses.replace(dataset, shape=_carried(model))
    with one_thread(), room(), unreplaced(dataset):
        measurement = measurement_of(dataset.modality)(asked, cache, Extent(samples, weighed), say)
        filtered = {"filter": terms.filter_digest} if terms.filters else {}
        elsewhere = {} if device.type == "cpu" else {"device": device.type}
        protocol = {**measurement.protocol, **filtered, **elsewhere}
        done = _done(folder, model, dataset, protocol)
        if done is not None:
            return done
        checked = Checked(model.modality, open_filter(terms))
        measured = measurement.measure(checked.watch(subject_of(model)), say)
    report = Report(
        artifact=model.digest,
        family=type(model.family).__module__.rpartition(".")[2],
        dataset=dataset.name,
        revision=dataset.revision,
        protocol=protocol,
        metrics={**measured.metrics, **checked.metrics()},
        baseline=measured.baseline,
        reference=measured.reference,
        facts=measured.facts,
        pictures=tuple(measured.files),
        seconds=time.perf_counter() - started,
    )
    write_report(folder, report, measured.files)
    return report


def check_fit(model: Model, dataset: Dataset) -> None:
    """Raise `UnfitError` if the model's rows are others than the dataset's."""
    mend = f"evaluate it on its own dataset, “{model.about.dataset}”, or train a model on this one."
    if model.about.modality != dataset.modality:
        raise UnfitError(
            f"The model makes {model.modality.makes} and the dataset “{dataset.name}” holds {dataset.tensors.makes}; "
            f"{mend}"
        )
    if model.shape.data != dataset.shape.data:
        ours, theirs = ("×".join(map(str, shape)) for shape in (model.shape.data, dataset.shape.data))
        raise UnfitError(
            f"The model makes rows of {ours} and the dataset “{dataset.name}” has {theirs}; {mend}"
        )
    if not model.modality.agrees(dataset.tensors) and (how := _read_otherwise(model, dataset)):
        raise UnfitError(f"{how}; {mend}")
    for what, ours, theirs in _conditions(model, dataset):
        if ours and ours != theirs:
            raise UnfitError(
                f"The model is asked by {what} {ours} and the dataset “{dataset.name}” has {theirs or 'none'}; {mend}"
            )


def _read_otherwise(model: Model, dataset: Dataset) -> str:
    """How the model reads what it uses otherwise than the dataset does; nothing if that does not matter to it."""
    shape = _carried(model)
    if shape.vocabulary:
        return (
            f"The model has a vocabulary of {shape.vocabulary} tokens and the dataset “{dataset.name}” "
            f"one of {dataset.shape.vocabulary} that is not the same"
        )
    if shape.prompt or shape.source:
        what = "reads captions" if shape.prompt else "was given sources"
        return f"The model {what} that the dataset “{dataset.name}” now makes in another way"
    if isinstance(model.modality, Audio) and isinstance(dataset.tensors, Audio):
        ours, theirs = model.modality.rate, dataset.tensors.rate
        return f"The model makes {ours} samples a second and the dataset “{dataset.name}” has {theirs}"
    return ""


def _conditions(model: Model, dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    """What requests carry, for people: its name, the model's, the dataset's; empty where there is none."""
    asked, given = _carried(model), dataset.shape
    yield "classes", ", ".join(model.about.classes if asked.classes else ()), ", ".join(dataset.classes)
    yield "captions of", _size(asked.prompt, " tokens of "), _size(given.prompt, " tokens of ")
    yield "sources of", _size(asked.source, "×"), _size(given.source, "×")


def _size(shape: tuple[int, ...] | None, between: str) -> str:
    return between.join(map(str, shape or ()))


def _carried(model: Model) -> Shape:
    """The model's shape with the conditions that its requests carry; old artifacts name classes that they ignore."""
    classes = model.shape.classes if Task.LABEL in model.family.tasks else 0
    return dataclasses.replace(model.shape, classes=classes)


def _done(folder: Path, model: Model, dataset: Dataset, protocol: Mapping[str, Any]) -> Report | None:
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


@contextmanager
def room() -> Iterator[None]:
    """Say in one sentence that a GPU is full, which something else may use."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise FailedError(
            "The GPU has too little free memory for the evaluation; wait for what else uses it, or evaluate on the "
            "CPU: CUDA_VISIBLE_DEVICES= genloom …"
        ) from error


def _silent(sentence: str) -> None:
    pass
