"""A registered version trained again from its lineage, to see whether the same data and settings give its weights."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from components import files
from components.artifact import WEIGHTS, read_manifest
from components.data.dataset import open_dataset
from components.errors import UserError
from components.project import ProductRow, Project, RunRow, Tables
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.train.launch import train
from components.train.wanted import plan_of
from components.train.watch import Progress


@dataclass(frozen=True)
class Reproduced:
    """The hash of the version's weights, and that of the weights that were trained again.

    `distance` is the largest difference between two numbers of them, `reasons` are what is not as it was: where
    there are none, other bits have no excuse.
    """

    version: str
    recorded: str
    found: str
    distance: float
    reasons: tuple[str, ...]
    run_id: str

    @property
    def same(self) -> bool:
        """Whether the weights are equal bit for bit."""
        return self.found == self.recorded


def reproduce(
    project: Project, version: Version, fresh: bool = False, progress: Progress | None = None
) -> Reproduced:
    """Train `version` again: its data revision, its settings, as many workers and threads; compare the weights.

    The training is a run of its own, which goes on after a kill and is not repeated once it is done unless `fresh`.
    Nothing is registered. Raises `UserError` where the data are not to be had, and `WithdrawnError`.
    """
    original = Registry(project.settings).fetch(version)
    with _as_it_was(project, version) as then:
        run = next(iter(then.tables.runs))
        reasons = _changed(version, plan_of(then, run).key)
        trained = train(then, run, workers=then.run(run).train.workers, fresh=fresh, progress=progress)
    return Reproduced(
        version=version.name,
        recorded=read_manifest(original)["files"][WEIGHTS],
        found=read_manifest(trained.artifact)["files"][WEIGHTS],
        distance=_distance(original / WEIGHTS, trained.artifact / WEIGHTS),
        reasons=reasons,
        run_id=trained.run_id,
    )


@contextmanager
def _as_it_was(project: Project, version: Version) -> Iterator[Project]:
    """The project with the version's run and data, whatever its tables and its prepared data are now."""
    row = RunRow.model_validate(version.parameters)
    product: ProductRow = project.product(version.product).model_copy(update={"dataset": version.dataset})
    tables = Tables(
        datasets=project.tables.datasets,
        products={version.product: product},
        runs={f"reproduce-{version.product}-{version.number}": row},
    )
    project.dataset(version.dataset)
    then = dataclasses.replace(project, tables=tables)
    if _revision(project.prepared / version.dataset) == version.revision:
        yield then
        return
    root = project.settings.home / "reproduce" / f"{version.product}-{version.number}"
    try:
        _check_out(project, version, root / "data" / "prepared" / version.dataset)
        yield dataclasses.replace(then, root=root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _revision(folder: Path) -> str:
    """The revision of prepared data; nothing where they are missing or damaged."""
    try:
        return open_dataset(folder).revision
    except UserError:
        return ""


def _check_out(project: Project, version: Version, folder: Path) -> None:
    """Put the version's data, as of its commit, from DVC's cache or remote into `folder`; raises `UserError`."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import SCMError

    wanted = f"{version.dataset} at revision {version.revision[:12]}"
    mend = "bring its row and its files back as they were and type genloom data prepare, or genloom data checkout."
    if not version.commit:
        raise UserError(
            f"{version.name} was trained on {wanted}, which is not what is prepared now, and without git; {mend}"
        )
    place = (project.prepared / version.dataset).relative_to(project.root).as_posix()
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with files.draft(folder) as draft:
            DVCFileSystem(str(project.root), rev=version.commit).get(place, str(draft), recursive=True)
    except (DvcException, SCMError, OSError) as error:
        raise UserError(
            f"{version.name} was trained on {wanted}, which is not what is prepared now, and DVC does not have it as "
            f"of the commit {version.commit[:12]} ({error}); {mend}"
        ) from error
    if _revision(folder) != version.revision:
        raise UserError(
            f"{version.name} was trained on {wanted}, which is neither prepared now nor what the commit "
            f"{version.commit[:12]} names; {mend}"
        )


def _changed(version: Version, key: str) -> tuple[str, ...]:
    """What is not as it was when the version was trained, in sentences."""
    found = []
    if version.torch != torch.__version__:
        found.append(f"It was trained by torch {version.torch}, and here is {torch.__version__}.")
    elif version.key != key:
        said = f"; check out {version.commit[:12]}" if version.commit else ""
        found.append(f"The sources that decide weights are others than then{said}.")
    if version.parameters["train"].get("threads") is None:
        found.append(
            "How many threads it had is not on record (train.threads); another number gives other bits."
        )
    return tuple(found)


def _distance(ours: Path, theirs: Path) -> float:
    """The largest difference between two weights of the same name and place; infinity where these are others."""
    left, right = load_file(ours), load_file(theirs)
    if {name: value.shape for name, value in left.items()} != {
        name: value.shape for name, value in right.items()
    }:
        return float("inf")
    return max(
        (float((left[name].double() - right[name].double()).abs().max()) for name in left), default=0.0
    )
