"""Which files of a project belong in a backup."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.ops.databases import databases, read_only
from components.ops.snapshot import PARTS
from components.project import Project
from components.settings import Settings
from components.tracking import served, shown
from components.train.runs import RunRecord, read_runs

PROJECT = (
    "params.yaml",
    "schedule.yaml",
    "serve.yaml",
    "dvc.yaml",
    "dvc.lock",
    ".dvc/config",
    ".dvcignore",
)
"""The files of the project that decide what its state means."""
WEIGHTS = frozenset({"checkpoints", "artifact"})
"""The folders of a training in which its weights are."""


@dataclass(frozen=True)
class Source:
    """A file that is to be in a backup as `path`; `vital` ones must not vanish while it is made."""

    path: str
    file: Path
    vital: bool = False


def version_folders(database: Path) -> set[str]:
    """The folders below `mlartifacts` that the versions in a run log's database name, as PRODUCT/models/ID."""
    query = "SELECT source FROM model_versions WHERE current_stage != 'Deleted_Internal'"
    with closing(read_only(database)) as connection:
        try:
            rows = connection.execute(query).fetchall()
        except (
            sqlite3.OperationalError
        ):  # of a log in which nothing was registered there may be no such table
            rows = []
    return {folder for (uri,) in rows if (folder := _below_artifacts(uri))}


def _below_artifacts(uri: str) -> str:
    """`digits/models/m-1` of `file:///…/mlartifacts/digits/models/m-1/artifacts`; nothing for a place of others."""
    _, between, rest = unquote(urlsplit(uri).path).rpartition("/mlartifacts/")
    return rest.removesuffix("/artifacts") if between else ""


def vital_sources(project: Project, database: Path | None) -> list[Source]:
    """What every backup has, beside ledgers and databases: versions as `database` names them, keys, the project."""
    settings = project.settings
    found = [Source(f"project/{name}", project.root / name) for name in PROJECT]
    found += [
        Source("home/layout", settings.home / "layout"),
        Source("shared/keys.json", settings.shared / "keys.json"),
    ]
    if not served(settings):
        folder = settings.home / "mlartifacts"
        named = _all_models(folder) if database is None else version_folders(database)
        found += [
            one
            for name in sorted(named)
            for one in tree(folder / name, f"home/mlartifacts/{name}", vital=True)
        ]
    return [one for one in found if one.file.is_file()]


def _all_models(folder: Path) -> set[str]:
    """All that was registered, where the database is one of others that is not looked into."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/models/*")}


def optional_sources(project: Project, parts: Collection[str]) -> list[Source]:
    """The files of the parts that are wanted, except for databases and checkpoints."""
    found: list[Source] = []
    for part, of in _PARTS.items():
        if part in parts:
            found += of(project)
    return found


def _runs(project: Project) -> Iterator[Source]:
    yield from tree(project.settings.runs, "shared/runs", skip={"checkpoints"})


def _pictures(project: Project) -> Iterator[Source]:
    folder = project.settings.home / "mlartifacts"
    for product in _folders(folder):
        for run in _folders(product):
            if run.name != "models":
                yield from tree(run, f"home/mlartifacts/{product.name}/{run.name}")


def _studies(project: Project) -> Iterator[Source]:
    yield from tree(project.settings.shared / "sweeps", "shared/sweeps", skip=WEIGHTS)


def _judges(project: Project) -> Iterator[Source]:
    yield from tree(project.settings.shared / "cache", "shared/cache", skip={"starts"})


def _shared(name: str) -> Callable[[Project], Iterator[Source]]:
    return lambda project: tree(project.settings.shared / name, f"shared/{name}")


def _data(project: Project) -> Iterator[Source]:
    yield from tree(project.prepared, "project/data/prepared")


def _tls(project: Project) -> Iterator[Source]:
    settings = project.settings
    for name, file in (("certificate.pem", settings.tls_cert), ("key.pem", settings.tls_key)):
        if file is not None:
            yield Source(f"tls/{name}", file, vital=True)


_PARTS: dict[str, Callable[[Project], Iterator[Source]]] = {
    "runs": _runs,
    "pictures": _pictures,
    "records": _shared("records"),
    "issued": _shared("issued"),
    "evaluations": _shared("evaluations"),
    "judges": _judges,
    "studies": _studies,
    "access": _shared("access"),
    "jobs": _shared("jobs"),
    "data": _data,
    "labels": _shared("labels"),
    "tls": _tls,
}


def tree(folder: Path, path: str, skip: Collection[str] = (), vital: bool = False) -> Iterator[Source]:
    """All files below `folder`, which is `path` in the backup; not those of folders called as in `skip`.

    Locks are of processes, and what begins with a dot is half written.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skip and not name.startswith("."))
        below = Path(place).relative_to(folder).as_posix()
        for name in sorted(names):
            if not (name.startswith(".") or name == "lock" or name.endswith(".lock")):
                yield Source(
                    f"{path}/{name}" if below == "." else f"{path}/{below}/{name}", Path(place, name), vital
                )


def unfinished(settings: Settings) -> list[RunRecord]:
    """The trainings that could go on from a checkpoint."""
    return [record for record in read_runs(settings) if record.state != "done"]


def database_sources(settings: Settings, parts: Collection[str]) -> dict[str, Path]:
    """The databases to be copied, by their paths in the backup."""
    wanted = [one for one in databases(settings) if one.name == "run log" or "flows" in parts]
    return {f"home/{one.path.relative_to(settings.home).as_posix()}": one.path for one in wanted}


def left_out(settings: Settings, parts: Collection[str]) -> list[str]:
    """Sentences about what is not in the backup, and how to keep it."""
    found = [f"{name}: {part.what} (--with {name})" for name, part in PARTS.items() if name not in parts]
    if settings.tracking_uri:
        place = shown(settings)
        what = (
            "and its artifact store, by the means of its host" if served(settings) else "such as by pg_dump"
        )
        found.append(f"run log and registry at {place}: back up that database {what}, at the same time")
    if os.environ.get("PREFECT_API_URL"):
        found.append(
            "the Prefect server of PREFECT_API_URL: back up its database; schedule.yaml is in this backup"
        )
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.is_dir())
