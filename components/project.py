"""The project: the nearest folder upward with a `params.yaml`; its three tables, checked and frozen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.audio_rows import PlucksRow, RecordingsRow
from components.errors import UserError, shortened, unknown
from components.image_rows import (
    ArchiveRow,
    Captions,
    Corrupt,
    DigitsRow,
    FolderRow,
    IdxRow,
    ImageRow,
    ParquetRow,
    UnpairedRow,
)
from components.layout import check_layout
from components.molecule_rows import MoleculeFilesRow, NciRow
from components.music_rows import ChoralesRow, CounterpointRow, MidiRow
from components.row import Row
from components.rows import AnyDataset, StdlibRow, TextFilesRow
from components.series_rows import SeriesFilesRow, StatsmodelsRow
from components.settings import Settings, read_settings
from components.tables import read_yaml, validate
from components.terms import USUAL, FilterRow, Labels, Policy, Precision, Terms, terms_of

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Guard(Row):
    """Limits that a challenger must keep, whatever its primary metric says."""

    least: float | None = Field(default=None, allow_inf_nan=False)
    most: float | None = Field(default=None, allow_inf_nan=False)


class ProductRow(Row):
    """What is registered and served: a dataset, a task, the terms of promotion and of serving.

    Without `primary`, a challenger is judged by the first metric of its report. With `approval: required` none is
    promoted that somebody else has not approved.
    """

    dataset: str
    task: Literal["free", "label", "prompt", "source"] = "free"
    primary: str | None = None
    min_gain: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    guards: Mapping[str, Guard] = {}
    approval: Literal["none", "required"] = "none"
    records: Policy = "hash"
    filter: FilterRow | None = None
    precision: Precision = "fp32"
    compile: bool = False
    rows: int | None = Field(default=None, ge=1, le=256)
    labels: Labels = "metadata"
    visible: bool = False


class TrainOptions(Row):
    """How a run is trained. Fields from `workers` on change rounding and noise only and are not in the key."""

    steps: int = Field(default=2000, ge=1, le=100_000_000)
    batch: int = Field(default=64, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    ema: float = Field(default=0.999, ge=0, lt=1)
    clip: float = Field(default=1.0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    warmup: int = Field(default=0, ge=0)
    decay: float = Field(default=0.2, gt=0, le=1)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    accumulate: int = Field(default=1, ge=1)
    adapters: int = Field(default=0, ge=0, le=65_536)
    workers: int | None = Field(default=None, ge=0, le=4096)
    threads: int | None = Field(default=None, ge=1, le=1024)
    distribute: Literal["ddp", "fsdp2"] = "ddp"
    compile: bool = False
    log_every: int = Field(default=50, ge=1)
    sample_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)


OPERATIONAL = frozenset(
    {"workers", "threads", "distribute", "compile", "log_every", "sample_every", "checkpoint_every"}
)
"""Fields of `TrainOptions` that do not enter the key of a training."""


class RunRow(Row):
    """A training that can be launched by name: product, family, its hyperparameters, how to train.

    `init` names what it starts from: a version such as digits/7, or hf:FOLDER, a GPT in Hugging Face's format.
    """

    product: str
    family: str
    model: Mapping[str, Any] = {}
    train: TrainOptions = TrainOptions()
    init: str | None = Field(default=None, pattern=r"^([a-z0-9][a-z0-9_-]*/[0-9]+|hf:.+)$")


class Tables(BaseModel):
    """The whole of `params.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    datasets: Mapping[str, AnyDataset] = {}
    products: Mapping[str, ProductRow] = {}
    runs: Mapping[str, RunRow] = {}


@dataclass(frozen=True)
class Project:
    """A project on disk: its folder, its tables, the settings that hold there."""

    root: Path
    tables: Tables
    settings: Settings

    @property
    def prepared(self) -> Path:
        """Where the DVC stages write, one folder a dataset."""
        return self.root / "data" / "prepared"

    def dataset(self, name: str) -> AnyDataset:
        """The row of a dataset; `UserError` with the nearest names if there is none."""
        return _lookup("dataset", name, self.tables.datasets)

    def product(self, name: str) -> ProductRow:
        """The row of a product; `UserError` with the nearest names if there is none."""
        return _lookup("product", name, self.tables.products)

    def terms(self, name: str) -> Terms:
        """The terms on which a product is served; raises `UserError` for a filter that cannot be."""
        row = self.product(name)
        held_back = terms_of(self.root, name, row.records, row.filter)
        return dataclasses.replace(
            held_back,
            precision=row.precision,
            compile=row.compile,
            rows=row.rows,
            labels=row.labels,
            visible=row.visible,
        )

    def own_terms(self, name: str) -> Terms:
        """The terms on which the operator's own commands generate: nothing is held back, and marks are made."""
        row = self.product(name)
        return dataclasses.replace(USUAL, labels=row.labels, visible=row.visible)

    def run(self, name: str, overrides: Iterable[str] = ()) -> RunRow:
        """The row of a run with `--set` assignments applied; names and values are checked."""
        row = _lookup("run", name, self.tables.runs)
        return override(name, row, list(overrides))


def _lookup(thing: str, name: str, table: Mapping[str, T]) -> T:
    if name not in table:
        raise unknown(thing, name, table)
    return table[name]


def find_root(start: Path | None = None) -> Path:
    """The nearest folder upward from `start` that holds a `params.yaml`."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise UserError(f"No params.yaml in {here} or any folder above it; change into your project's folder.")


def check_name(name: str) -> None:
    """Raise `UserError` unless a new row may have this name."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"“{shortened(name)}” is no good name; use small letters, digits, - and _, at most 63."
        )


def open_project(start: Path | None = None) -> Project:
    """Read and check the project around `start` (by default, the current folder), and that its home is not too new."""
    root = find_root(start)
    tables = read_tables(root / "params.yaml")
    settings = read_settings(root)
    check_layout(settings.home)
    return Project(root=root, tables=tables, settings=settings)


def read_tables(path: Path) -> Tables:
    """Parse and check a `params.yaml`; references between tables must resolve. Raises `UserError`."""
    content = read_yaml(path)
    tables = _validate(Tables, content or {}, str(path))
    for name in [*tables.datasets, *tables.products, *tables.runs]:
        if not NAME.fullmatch(name):
            raise UserError(
                f"In {path}, the name “{name}” must be small letters, digits, - and _, at most 63."
            )
    for name, row in tables.datasets.items():
        for domain in (row.target, row.origin) if isinstance(row, UnpairedRow) else ():
            _check_domain(f"datasets.{name}", domain, tables.datasets)
    for name, product in tables.products.items():
        if product.dataset not in tables.datasets:
            raise _dangling(f"products.{name}", unknown("dataset", product.dataset, tables.datasets))
    for name, run in tables.runs.items():
        if run.product not in tables.products:
            raise _dangling(f"runs.{name}", unknown("product", run.product, tables.products))
    return tables


def _check_domain(where: str, name: str, datasets: Mapping[str, AnyDataset]) -> None:
    """Raise `UserError` unless `name` is a dataset of pictures that can be one of two domains."""
    if name not in datasets:
        raise _dangling(where, unknown("dataset", name, datasets))
    row = datasets[name]
    if not isinstance(row, ImageRow) or row.gives_source:
        what = "sources already" if isinstance(row, ImageRow) else "no pictures"
        raise UserError(f"In params.yaml, {where}: {name} holds {what}; name a dataset of plain pictures.")


def _dangling(where: str, error: UserError) -> UserError:
    return UserError(f"In params.yaml, {where}: {error}")


def _validate(kind: type[T], content: Any, where: str) -> T:
    return validate(kind, content, where, lambda location: _fields_beside(kind, location))


def _fields_beside(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """The names of the fields that the unknown one at `location` could have been."""
    tables: dict[str, list[type[BaseModel]]] = {
        "datasets": [
            *(DigitsRow, IdxRow, FolderRow, ParquetRow, ArchiveRow, UnpairedRow),
            *(StdlibRow, TextFilesRow, PlucksRow, RecordingsRow),
            *(CounterpointRow, ChoralesRow, MidiRow),
            *(StatsmodelsRow, SeriesFilesRow),
            *(NciRow, MoleculeFilesRow),
        ],
        "products": [ProductRow],
        "runs": [RunRow],
    }
    if len(location) == 1:
        return list(getattr(kind, "model_fields", {}))
    for table, fields in (
        ("train", TrainOptions),
        ("corrupt", Corrupt),
        ("captions", Captions),
        ("filter", FilterRow),
    ):
        if table in location[:-1]:
            return list(fields.model_fields)
    models = tables.get(str(location[0]), [])
    return sorted({name for model in models for name in model.model_fields})


FIELDS = {"train": "steps=1000", "model": "lr=0.001"}
"""A field of each table of a run, as an example."""


def override(name: str, row: RunRow, assignments: list[str]) -> RunRow:
    """`row` with assignments such as `model.latent=32` applied; values are read as YAML.

    Raises `UserError` for a malformed assignment, an unknown field (with the nearest names), a bad value.
    """
    content = row.model_dump(mode="python")
    content["model"] = dict(content["model"])
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise UserError(f"“{assignment}” is no assignment; write it as --set model.latent=32.")
        if path in ("product", "family"):
            raise UserError(f"A run's {path} is its row's; write a row of its own into params.yaml.")
        if path in ("train", "model"):
            raise UserError(f"“{path}” is a table; set a field of it, such as --set {path}.{FIELDS[path]}.")
        if "." not in path and path != "init":
            raise UserError(f"“{path}” belongs to no table; write --set model.{path}=… or train.{path}=….")
        table, _, field = path.partition(".")
        value = _scalar(path, text)
        if path == "init":
            content["init"] = value
        elif table == "train" and field in TrainOptions.model_fields:
            content["train"][field] = value
        elif table == "model" and field:
            content["model"][field] = value
        else:
            known = ["init", *(f"train.{known}" for known in TrainOptions.model_fields), "model.…"]
            raise unknown("field", path, known)
    return _validate(RunRow, content, f"run {name}")


def _scalar(path: str, text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        raise UserError(f"The value of {path}, “{text}”, cannot be read as YAML; quote it.") from error


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings as pairs such as (`model.latent`, 16)."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
