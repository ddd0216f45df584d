"""What a training that is asked for comes to: checked, resolved, with the key that names it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components import files
from components.artifact import read_manifest
from components.data.dataset import Dataset, open_dataset
from components.families.family import Family, Task
from components.project import Project, RunRow
from components.promotion.registry import Registry
from components.promotion.revocation import check_data
from components.settings import Settings, expanded
from components.train.plan import (
    check_options,
    check_run,
    check_shape,
    check_start,
    check_task,
    key_of,
)


@dataclass(frozen=True)
class Wanted:
    """A training that was asked for: the row with its overrides, what it resolves to, and its key."""

    run: str
    row: RunRow
    family: Family
    dataset: Dataset
    task: Task
    start: Path | None
    key: str


def plan_of(project: Project, run: str, overrides: Sequence[str] = ()) -> Wanted:
    """Check and resolve a training without starting it; raises `UserError` for what does not fit."""
    row = project.run(run, overrides)
    family = check_run(project, run, row)
    product = project.product(row.product)
    task = Task(product.task)
    dataset = open_dataset(project.prepared / product.dataset, task)
    check_data(project.settings, dataset.name, dataset.revision)
    check_task(run, row, task, dataset)
    check_shape(run, family, dataset.shape, row.train.steps)
    check_options(run, row, family, dataset)
    start = starting_point(project, row, family, dataset)
    if start is not None:
        check_start(run, row, family, dataset, start)
    key = key_of(row, dataset, task, read_manifest(start)["digest"] if start else "")
    return Wanted(run, row, family, dataset, task, start, key)


def starting_point(project: Project, row: RunRow, family: Family, dataset: Dataset) -> Path | None:
    """The artifact that `init` names, fetched and checked; a folder in Hugging Face's format is made one."""
    if row.init is None:
        return None
    if row.init.startswith("hf:"):
        from components.export import start_from_hf

        folder = _hf_folder(project, row.init)
        return start_from_hf(folder, family, dataset, project.settings.shared / "cache" / "starts")
    product, _, number = row.init.partition("/")
    registry = Registry(project.settings)
    return _seen_by_all(project.settings, registry.fetch(registry.version(product, number)))


def _seen_by_all(settings: Settings, folder: Path) -> Path:
    """An artifact that was fetched to this machine, where workers on other nodes find it too."""
    if settings.shared == settings.home:
        return folder
    kept = settings.shared / "cache" / "starts" / str(read_manifest(folder)["digest"])
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with files.draft(kept) as draft:
            shutil.copytree(folder, draft)
    return kept


def check_init(project: Project, row: RunRow) -> None:
    """Raise `UserError` for an `init` that names nothing; no weights are read."""
    if row.init is None:
        return
    if row.init.startswith("hf:"):
        from components.export import read_config

        read_config(_hf_folder(project, row.init))
        return
    product, _, number = row.init.partition("/")
    Registry(project.settings).usable(product, number)


def _hf_folder(project: Project, init: str) -> Path:
    return project.root / expanded(init.removeprefix("hf:"), "init")


def with_workers(row: RunRow, count: int) -> RunRow:
    """The row as it is really trained, for the records."""
    return row.model_copy(update={"train": row.train.model_copy(update={"workers": count})})
