"""A person's own data enters the project: looked at first, then a row, a product, runs and a stage at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from components import files
from components.audio_rows import RecordingsRow
from components.data.describe import (
    describe_molecules,
    describe_music,
    describe_pictures,
    describe_recordings,
    describe_series,
    describe_text,
    held,
)
from components.data.stages import check_path, ensure_stage, ensure_workspace
from components.data.survey import Survey, survey
from components.errors import UserError
from components.families.family import names
from components.molecule_rows import MoleculeFilesRow
from components.music_rows import MidiRow
from components.project import NAME, Project, check_name, open_project, read_tables
from components.rows import OwnRow, TextFilesRow
from components.series_rows import SeriesFilesRow
from components.settings import expanded, writable_home

OF_PICTURES = frozenset({"size", "channels", "fit", "image", "label", "caption"})
OF_TEXT = frozenset({"tokenizer", "context", "unit"})
OF_SERIES = frozenset({"context", "horizon", "season", "time"})
OF_SOUND = frozenset({"rate", "seconds"})
OF_MUSIC = frozenset({"notation", "steps", "context"})
OF_MOLECULES = frozenset({"smiles", "bands", "hold_out", "context"})
OPTIONS = {
    "text": OF_TEXT,
    "pictures": OF_PICTURES,
    "recordings": OF_SOUND,
    "music": OF_MUSIC,
    "series": OF_SERIES,
    "molecules": OF_MOLECULES,
}
"""The options that not every modality has, by what it holds."""
ROWS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], OwnRow]] = {
    "text": describe_text,
    "pictures": describe_pictures,
    "recordings": describe_recordings,
    "music": describe_music,
    "series": lambda _, where, options: describe_series(where, options),
    "molecules": lambda _, where, options: describe_molecules(where, options),
}
"""What makes the row of each, out of the place, how it is written, and other fields."""
OF_WINDOWS = {"steps": 1500, "batch": 32, "schedule": "wsd", "warmup": 50, "decay": 0.4}
"""How models of series are trained unless somebody says otherwise."""
CODES, MOST_HALVINGS = 500, 10
"""The most codes of a recording that a run begins with, and how often `vqvae` halves at most."""


def describe(project: Project, path: Path, options: Mapping[str, Any]) -> OwnRow:
    """The row for the data at `path`: what it holds by its files' names, else pictures.

    `options` are other fields of the row; those of other modalities are refused. Raises `UserError` if there is
    no `path`, or it holds the project's data.
    """
    place = expanded(path, "The folder").resolve()
    if not place.exists():
        raise UserError(f"There is no {place}; give the folder or file that holds your data.")
    if project.prepared.is_relative_to(place):
        raise UserError(f"{place} holds the project's own prepared data; give the folder of your data alone.")
    inside = place.is_relative_to(project.root)
    where = place.relative_to(project.root).as_posix() if inside else place.as_posix()
    check_path(where)
    holds = held(place, options)
    wrong = sorted(options.keys() & frozenset().union(*OPTIONS.values()) - OPTIONS[holds])
    if wrong:
        left_out = " and ".join(f"--{option.replace('_', '-')}" for option in wrong)
        raise UserError(f"{place} holds {holds}; leave out {left_out}.")
    try:
        return ROWS[holds](place, where, options)
    except ValidationError as error:
        raise _unfit(error) from error


def _unfit(error: ValidationError) -> UserError:
    """The sentence for a value that no row of this modality may have."""
    first = error.errors()[0]
    option = str(first["loc"][0]).replace("_", "-") if first["loc"] else "option"
    cause = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return UserError(f"--{option} is {first['input']!r} and {cause}; take another.")


def add(project: Project, name: str, row: OwnRow, by_class: bool = False) -> Survey:
    """Survey the row's source, write the row with a product and runs, and the DVC stage; all or nothing.

    Raises `UserError` if the name is taken, if the source holds nothing to be read, or no classes where the product is
    to draw `by_class`; `params.yaml` is then as it was.
    """
    goal(row, by_class)
    found = survey(project, name, row)
    task, families = goal(row, by_class, len(found.classes))
    if task == "label" and len(found.classes) < 2:
        raise UserError(
            f"{row.path} holds {len(found.classes)} classes, and --by-class needs two; put the files into a folder "
            "for each class, name the column of classes with --label, or leave --by-class out."
        )
    entered = _enter(project, name, _written(row), task, families, fitted(row))
    try:
        ensure_workspace(project)
        ensure_stage(open_project(project.root), name)
    except BaseException:
        _withdraw(project, name, entered)
        raise
    return found


def goal(row: OwnRow, by_class: bool = False, classes: int = 0) -> tuple[str, tuple[str, ...]]:
    """The task of a product of this dataset, and the families that get a run. Raises `UserError`.

    Recordings of several `classes` are made by class, whether that is asked for or not.
    """
    if isinstance(row, RecordingsRow):
        return ("label" if by_class or classes > 1 else "free"), _known("vqvae")
    if by_class:
        if (
            isinstance(row, TextFilesRow | MidiRow | SeriesFilesRow | MoleculeFilesRow)
            or row.gives_source
            or row.gives_prompt
        ):
            raise UserError(
                "--by-class is for pictures with classes alone, without captions or pairs, and for recordings; "
                "leave it out."
            )
        return "label", _known("cvae", "diffusion")
    if isinstance(row, SeriesFilesRow):
        return "prompt", _known("gpt", "lstm")
    if isinstance(row, TextFilesRow):
        return ("source", ("seq2seq",)) if row.form == "pairs" else ("prompt", ("gpt", "lstm"))
    if isinstance(row, MidiRow | MoleculeFilesRow):
        return "prompt", _known("gpt", "lstm")
    if row.gives_source:
        return "source", _known("pix2pix")
    return ("prompt", _known("diffusion")) if row.gives_prompt else ("free", ("vae", "gan"))


def fitted(row: OwnRow) -> dict[str, Any]:
    """What the runs of a dataset need beside their families' defaults.

    Of recordings, codes that stand for more; of music, rows that are long and few; of molecules, a schedule that ends.
    """
    if isinstance(row, MidiRow):
        return {
            "model": {"dropout": 0.2},
            "train": {"steps": 1000, "batch": 8, "schedule": "wsd", "warmup": 30},
        }
    if isinstance(row, SeriesFilesRow):
        return {"model": {"layers": 3, "width": 96, "dropout": 0.1}, "train": dict(OF_WINDOWS)}
    if isinstance(row, MoleculeFilesRow):
        return {
            "train": {"steps": 2500, "batch": 32, "ema": 0, "schedule": "wsd", "warmup": 50, "decay": 0.5}
        }
    if not isinstance(row, RecordingsRow):
        return {}
    halvings = min(MOST_HALVINGS, max(2, math.ceil(math.log2(row.samples / CODES))))
    return {"model": {"halvings": halvings}, "train": {"batch": 16}}


def _known(*families: str) -> tuple[str, ...]:
    """Those of the families that this installation has."""
    return tuple(name for name in families if name in names())


def _written(row: OwnRow) -> dict[str, Any]:
    """The row as it is written for people: the source first, the size on one line."""
    content = row.model_dump(mode="json", exclude_unset=True)
    if "size" in content:
        content["size"] = CommentedSeq(content["size"])
        content["size"].fa.set_flow_style()
    return {"source": content.pop("source"), **content}


@dataclass(frozen=True)
class Entered:
    """What `_enter` did to `params.yaml`: its bytes before and after, and the names of the new runs."""

    before: bytes
    after: bytes
    runs: tuple[str, ...]


def _enter(
    project: Project,
    name: str,
    content: Mapping[str, Any],
    task: str,
    families: Iterable[str],
    fitting: Mapping[str, Any],
) -> Entered:
    """Write a dataset's row, a product of the same name and a run a family into `params.yaml`, with its comments.

    Runs have what is `fitting` for the data. The file is replaced atomically; the tables are checked before. Raises
    `UserError` if the name is taken.
    """
    check_name(name)
    path = project.root / "params.yaml"
    with one_writer(project):
        before = path.read_bytes()
        tables = YAML().load(before.decode("utf-8")) or {}
        for table in ("datasets", "products", "runs"):
            if tables.get(table) is None:
                tables[table] = {}
        for table, what in (("datasets", "dataset"), ("products", "product")):
            if name in tables[table]:
                raise UserError(f"There is already a {what} “{name}” in params.yaml; choose another name.")
        tables["datasets"][name] = dict(content)
        tables["products"][name] = {"dataset": name} | ({} if task == "free" else {"task": task})
        runs = {
            f"{name}-{family}": {"product": name, "family": family, **deepcopy(dict(fitting))}
            for family in families
        }
        for run in runs:
            if run in tables["runs"]:
                raise UserError(f"There is already a run “{run}” in params.yaml; choose another name.")
            if not NAME.fullmatch(run):
                raise UserError(
                    f"“{name}” is too long for the name of its run, “{run}”, of at most 63 letters."
                )
        tables["runs"].update(runs)
        replace_tables(path, tables)
        return Entered(before, path.read_bytes(), tuple(runs))


def _withdraw(project: Project, name: str, entered: Entered) -> None:
    """Undo `_enter`: the file is what it was, or without these rows, if somebody has written others since."""
    path = project.root / "params.yaml"
    with one_writer(project):
        now = path.read_bytes()
        if now == entered.after:
            files.write(path, entered.before)
            return
        tables = YAML().load(now.decode("utf-8"))
        for table, names in (("runs", entered.runs), ("products", (name,)), ("datasets", (name,))):
            for one in names:
                tables[table].pop(one, None)
        replace_tables(path, tables)


def one_writer(project: Project) -> FileLock:
    """What a process holds while it writes the project's `params.yaml`."""
    return FileLock(writable_home(project.settings) / ".params-lock")


def replace_tables(path: Path, tables: Any) -> None:
    """Put `tables` in the place of `params.yaml`; `UserError` if something in them is wrong."""
    yaml = YAML()
    yaml.width = 4096  # no line of a person's is broken
    with files.draft(path) as draft:
        with draft.open("w", encoding="utf-8") as stream:
            yaml.dump(tables, stream)
        read_tables(draft)
