"""From names in `params.yaml` to all that a worker needs; what does not fit together is refused here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from components import compiler
from components.artifact import WEIGHTS, About, read_manifest
from components.audio_rows import AudioRow
from components.data.dataset import Dataset
from components.errors import UserError, unknown
from components.families.family import Family, Shape, Task, kind_of, names
from components.image_rows import ImageRow, UnpairedRow
from components.modalities.modality import kind_of as modality_kind
from components.modalities.modality import modality_of
from components.music_rows import MusicRow
from components.project import ProductRow, Project, RunRow, TrainOptions
from components.terms import WITHHELD
from components.train.adapters import adapted_layers
from components.train.key import commit_of, training_key


@dataclass(frozen=True)
class Plan:
    """Everything a worker needs to know; paths are absolute and seen by every node."""

    folder: Path
    dataset: Path
    family: str
    hyperparameters: Mapping[str, Any]
    options: TrainOptions
    about: About
    task: Task
    start: Path | None = None


def family_of(name: str, row: RunRow) -> Family:
    """The family of a run with its hyperparameters; raises `UserError` for unknown names and bad values."""
    if row.family not in names():
        raise unknown("family", row.family, names())
    kind = kind_of(row.family)
    known = [item.name for item in dataclasses.fields(kind)]
    for field in row.model:
        if field not in known:
            raise unknown(
                f"field of the family {row.family}", f"model.{field}", [f"model.{k}" for k in known]
            )
    try:
        return kind(**row.model)
    except ValueError as error:
        raise UserError(f"In run {name}, model.{error}.") from error


def check_product(project: Project, name: str) -> None:
    """Refuse a product whose `primary` or guards name a metric that no report of its modality has.

    Of pictures and sound, also a task that the row of its dataset gives nothing for.
    """
    product = project.product(name)
    row = project.dataset(product.dataset)
    if isinstance(row, ImageRow):
        _check_pictures(name, product, row)
    if isinstance(row, AudioRow) and product.task not in ("free", "label"):
        raise UserError(
            f"In products.{name}, recordings can be drawn freely or by class and the task is {product.task}; set task "
            "to free or label."
        )
    if isinstance(row, MusicRow) and product.task not in ("free", "prompt"):
        raise UserError(
            f"In products.{name}, music is drawn freely or goes on with what is given, and the task is {product.task}; "
            "set task to free or prompt."
        )
    known = (*modality_kind(row.modality).reported(), *([WITHHELD] if project.terms(name).filters else []))
    for metric in [*([product.primary] if product.primary else []), *product.guards]:
        if metric not in known:
            raise UserError(f"In products.{name}: {unknown('metric', metric, known)}")


def _check_pictures(name: str, product: ProductRow, row: ImageRow) -> None:
    """Refuse a task that asks for sources or captions which the dataset's row does not say how to get."""
    lacks = None
    if product.task == "source" and not row.gives_source:
        lacks = "sources, which the task source draws from; say corrupt: or form: pairs there"
    if product.task == "prompt" and not row.gives_prompt:
        lacks = "captions, which the task prompt draws by; say there which caption: holds them"
    if lacks:
        raise UserError(
            f"In products.{name}, the dataset {product.dataset} has no {lacks}, or set another task."
        )


def check_run(project: Project, name: str, row: RunRow) -> Family:
    """Refuse a run whose family cannot do its product's task or does not model its dataset's tensors."""
    family = family_of(name, row)
    product = project.product(row.product)
    modality = modality_kind(project.dataset(product.dataset).modality)
    if modality.kind not in family.kinds:
        kinds = ", ".join(sorted(family.kinds))
        raise UserError(
            f"In run {name}, the family {row.family} models {kinds} and the dataset {product.dataset} "
            f"holds {modality.kind}; choose another family."
        )
    if Task(product.task) not in family.tasks:
        tasks = ", ".join(sorted(family.tasks))
        raise UserError(
            f"In run {name}, the product {row.product} asks for the task {product.task} and the family "
            f"{row.family} does {tasks}; choose another family or product."
        )
    if isinstance(project.dataset(product.dataset), UnpairedRow) and not family.unpaired:
        raise UserError(
            f"In run {name}, the family {row.family} learns from pairs, and the sources of the dataset "
            f"{product.dataset} have nothing to do with its pictures; choose cyclegan, or a dataset of pairs."
        )
    return family


def key_of(row: RunRow, dataset: Dataset, task: Task, start: str = "") -> str:
    """The key of training `row` for `task` on this revision of its data; `start` is the digest of its `init`."""
    return training_key(dataset.revision, row, dataset.modality, task, start)


def about_run(project: Project, name: str, row: RunRow, dataset: Dataset, key: str) -> About:
    """What the artifact will say of its origin."""
    commit, dirty = commit_of(project.root)
    return About(
        product=row.product,
        run=name,
        dataset=dataset.name,
        revision=dataset.revision,
        licence=dataset.licence,
        source=dataset.source,
        classes=list(dataset.classes),
        modality=dataset.modality,
        key=key,
        parameters=row.model_dump(mode="json"),
        commit=commit,
        dirty=dirty,
        steps=row.train.steps,
    )


def check_rows(name: str, row: RunRow, dataset: Dataset, workers: int) -> None:
    """Refuse a batch that the data or the workers cannot carry."""
    if row.train.batch > dataset.rows("train"):
        raise UserError(
            f"In run {name}, train.batch is {row.train.batch} and the dataset {dataset.name} has "
            f"{dataset.rows('train')} training rows; set train.batch to at most that."
        )
    if row.train.accumulate > (share := row.train.batch // max(1, workers)):
        raise UserError(
            f"In run {name}, train.accumulate is {row.train.accumulate} and a worker has {share} of the "
            f"{row.train.batch} rows of a step; set train.accumulate to at most that."
        )
    if workers > 1 and row.train.batch % workers:
        raise UserError(
            f"In run {name}, train.batch = {row.train.batch} cannot be shared by {workers} workers evenly; "
            f"set train.batch to a multiple of {workers}."
        )


def check_task(name: str, row: RunRow, task: Task, dataset: Dataset) -> None:
    """Refuse a product whose task needs what its data have not, or whose pairs it does not ask for."""
    shape = dataset.shape
    lacks = {
        Task.LABEL: not shape.classes and "no classes, which the task label draws by; label the data",
        Task.PROMPT: not (shape.vocabulary or shape.prompt)
        and "no captions, which the task prompt draws by; add them",
    }.get(task)
    if lacks:
        raise UserError(
            f"In run {name}, the dataset {dataset.name} holds {lacks}, or set the task of the product {row.product} "
            "to free."
        )
    pairs = shape.source is not None
    if (task is Task.SOURCE) == pairs:
        return
    holds = "pairs of a source and a target" if pairs else "no sources"
    raise UserError(
        f"In run {name}, the product {row.product} asks for the task {task} and the dataset {dataset.name} holds "
        f"{holds}; set the product's task to {'source' if pairs else 'free or prompt'}, or its dataset to another."
    )


def unfilled(family: Family, shape: Shape) -> dict[str, nn.Module]:
    """The networks without memory for their weights; `ValueError` for a shape that they cannot have."""
    with torch.device("meta"):
        return family.networks(shape)


def check_shape(name: str, family: Family, shape: Shape, steps: int) -> None:
    """Refuse data of a shape that the family, as it is set, cannot model, or a network that no step would train."""
    try:
        networks = unfilled(family, shape)
    except ValueError as error:
        raise UserError(f"In run {name}, {error}.") from error
    if idle := [key for key in networks if not any(family.due(key, step) for step in range(steps))]:
        raise UserError(
            f"In run {name}, train.steps = {steps} ends before the {idle[0]} learns at all; set train.steps higher."
        )


def check_options(name: str, row: RunRow, family: Family, dataset: Dataset) -> None:
    """Refuse a way of training that the family or this machine cannot do."""
    options, kind = row.train, f"the family {row.family}"
    if options.warmup >= options.steps:
        raise UserError(
            f"In run {name}, train.warmup = {options.warmup} leaves nothing of train.steps = {options.steps}; "
            "set train.warmup below train.steps."
        )
    if options.adapters and (row.init is None or options.distribute == "fsdp2"):
        raise UserError(
            f"In run {name}, train.adapters trains additions to weights that are there already, on whole copies; "
            "set init to where they are, and train.distribute to ddp."
        )
    if options.adapters:
        adapted_layers(unfilled(family, dataset.shape))
    if family.unclipped and options.clip:
        raise UserError(
            f"In run {name}, train.clip is {options.clip:g} and {kind} has penalties that come rarely and weigh much, "
            "which clipping would cut off; set train.clip to 0."
        )
    if family.double_backward and options.compile:
        raise UserError(
            f"In run {name}, {kind} takes gradients of gradients, which torch.compile cannot; "
            "set train.compile to false."
        )
    if options.compile and not compiler.found():
        raise UserError(
            f"In run {name}, train.compile needs a C++ compiler and none was found; install g++, name one in CXX, "
            "or set train.compile to false."
        )
    if options.distribute != "fsdp2":
        return
    if family.double_backward:
        raise UserError(
            f"In run {name}, {kind} takes gradients of gradients, which FSDP2 cannot; set train.distribute to ddp."
        )
    networks = unfilled(family, dataset.shape)
    if not family.shardable:
        raise UserError(
            f"In run {name}, {kind} as it is set needs whole matrices, which FSDP2 shards; set train.distribute to ddp "
            "(a gpt can also take model.optimizer: adamw)."
        )
    if len(networks) > 1:
        raise UserError(
            f"In run {name}, {kind} has several networks ({', '.join(networks)}) whose losses need each other's "
            "weights, and FSDP2 shards those of one; set train.distribute to ddp."
        )


def check_start(name: str, row: RunRow, family: Family, dataset: Dataset, start: Path) -> None:
    """Refuse to start from an artifact whose weights have other names or shapes than this run's networks."""
    with torch.device("meta"):
        wanted = {key: list(value.shape) for key, value in meta_weights(family, dataset).items()}
    with safe_open(start / WEIGHTS, framework="pt") as stored:
        found = {key: list(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        key = wrong[0]
        raise UserError(
            f"In run {name}, the weights of {row.init} do not fit the networks: {key} is {found.get(key)} there "
            f"and {wanted.get(key)} here; use the same family and model: settings as {row.init}."
        )
    theirs = modality_of(read_manifest(start)["about"]["modality"], start)
    if not theirs.agrees(dataset.tensors):
        raise UserError(
            f"In run {name}, {row.init} was trained with another tokenizer than the dataset {dataset.name} has, so its "
            "tokens mean other things; start from a version of this dataset, or export it and start from hf:FOLDER."
        )


def meta_weights(family: Family, dataset: Dataset) -> dict[str, torch.Tensor]:
    """The networks' weights by the names they have in an artifact, for their shapes only."""
    return {
        f"{name}.{key}": value
        for name, network in family.networks(dataset.shape).items()
        for key, value in network.state_dict().items()
    }
