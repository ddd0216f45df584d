"""The notebook's door: train, load, sample and evaluate in this process, without a cluster or a flow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from components.artifact import Model
from components.artifact import load as load_artifact
from components.data.dataset import Dataset
from components.data.prepare import reproduce
from components.errors import UserError
from components.evaluation.project import evaluate_artifact
from components.evaluation.report import Report
from components.families.family import Requests
from components.project import Project, open_project
from components.promotion.registry import Registry
from components.promotion.revocation import check_digest
from components.settings import quiet_environment
from components.train.attempts import Trained
from components.train.launch import train as launch
from components.train.runs import read_run
from components.train.watch import Progress

__all__ = [
    "Model",
    "Project",
    "Report",
    "Trained",
    "evaluate",
    "load",
    "prepare",
    "project",
    "sample",
    "train",
]


def project(start: Path | None = None) -> Project:
    """The project around `start` (by default, the current folder)."""
    quiet_environment()
    return open_project(start)


def prepare(where: Project, dataset: str) -> Dataset:
    """Bring a dataset up to date by its DVC stage and open it."""
    (prepared,) = reproduce(where, [dataset])
    return prepared


def train(
    where: Project,
    run: str,
    overrides: Sequence[str] = (),
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> Trained:
    """Prepare the data of `run` and train it, by default in this process; resumes, and trains nothing twice."""
    prepare(where, where.product(where.run(run, overrides).product).dataset)
    return launch(where, run, overrides, workers=workers, progress=progress)


def load(where: Project, name: str | Path, *, packed: bool = True) -> Model:
    """A model by version (digits/3, digits@champion), by training run, or by the folder of an artifact.

    On a CPU it is `packed`, by which large layers generate in half the time, to the bits that a server gives. Who wants
    gradients, or a network of plain layers, loads it with `packed` False.
    """
    if isinstance(name, Path):
        model = load_artifact(name, packed=packed)
        check_digest(where.settings, model.about.product, model.digest)
        return model
    if "/" in name or "@" in name:
        registry = Registry(where.settings)
        return load_artifact(registry.fetch(registry.named(name)), packed=packed)
    model = load_artifact(read_run(where.settings, name).artifact, packed=packed)
    check_digest(where.settings, model.about.product, model.digest)
    return model


def sample(model: Model, n: int, seed: int = 0) -> Tensor:
    """`n` outputs [n, …]; the i-th has the seed `seed` + i, as over HTTP, and by it a class where there are such."""
    if n < 1:
        raise UserError(f"There is nothing to draw for n = {n}; ask for at least 1.")
    shape, modality = model.shape, model.modality
    if shape.source is not None:
        raise UserError(
            "The model turns a source into something else and draws nothing by itself; ask it with genloom edit or "
            "genloom generate."
        )
    if shape.vocabulary:
        return model.sample(Requests(seed=torch.arange(seed, seed + n)))
    body = modality.warm(shape).model_copy(update={"n": n, "seed": seed})
    return model.sample(modality.order(body, model.maker, range(seed, seed + n)).requests)


def evaluate(where: Project, trained: Trained) -> Report:
    """Measure a trained run on its product's held-out data; the report and its pictures lie in its folder."""
    record = read_run(where.settings, trained.run_id)
    return evaluate_artifact(where, record.product, record.artifact, record.evaluation)
