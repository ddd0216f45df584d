"""`serve.yaml`: the applications that a server is to hold, checked whole before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from components import cluster
from components.cluster import Capacity
from components.errors import UserError, unknown
from components.project import NAME as ALLOWED
from components.project import Project
from components.row import Row
from components.tables import Location, read_yaml, validate

FILE = "serve.yaml"
"""The file's name at the project's root."""
NAME = "genloom"
"""The application of `genloom serve PRODUCT`, which has the path /."""
PATH = re.compile(r"/|(/[a-z0-9][a-z0-9_-]*)+")
OWN = frozenset({"v1", "health", "ready", "metrics", "docs", "redoc", "openapi"})
"""First parts of the routes that every application has, which a path would hide from the one above it."""


class Replicas(Row):
    """How many replicas an application has: `min` to `max`, by `requests` under way or waiting for each.

    More are started when `up` seconds long more were wanted, and ended when `down` seconds long fewer were.
    """

    min: int = Field(default=1, ge=0, le=1000)
    max: int = Field(default=1, ge=1, le=1000)
    requests: float = Field(default=16, gt=0, le=100_000)
    up: float = Field(default=5, ge=0, le=86_400)
    down: float = Field(default=300, ge=0, le=86_400)

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, content: Any) -> Any:
        if isinstance(content, int) and not isinstance(content, bool):
            return {"min": content, "max": content}
        if isinstance(content, dict | Replicas):
            return content
        raise ValueError("give a number, or min and max, and requests for each")

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}; change one of them")
        return self

    @property
    def fixed(self) -> bool:
        """Whether there are always as many."""
        return self.min == self.max

    def __str__(self) -> str:
        return str(self.max) if self.fixed else f"{self.min} to {self.max}"


def _which(value: Any) -> Any:
    if value == "champion" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("give champion, which is followed, or a version's number")


Which: TypeAlias = Annotated[Literal["champion"] | int, BeforeValidator(_which)]


def _gpus(value: float) -> float:
    """As Ray gives them to a process: a part of one, or whole ones."""
    if value > 1 and not value.is_integer():
        raise ValueError("it is neither a part of one GPU nor whole ones; give at most 1, or a whole number")
    return value


class ApplicationRow(Row):
    """One application of the file: its models by product, its replicas, the CPUs and GPUs of each, its path."""

    models: Mapping[str, Which] = Field(min_length=1)
    replicas: Replicas = Replicas()
    cpus: float = Field(default=0.0, ge=0, le=1024, allow_inf_nan=False)
    gpus: Annotated[float, AfterValidator(_gpus)] = Field(default=0.0, ge=0, le=1024, allow_inf_nan=False)
    path: str = ""


class Declaration(Row):
    """The whole of `serve.yaml`."""

    applications: Mapping[str, ApplicationRow] = Field(min_length=1)


def read_declaration(path: Path, project: Project) -> Mapping[str, ApplicationRow]:
    """The applications of the file at `path`, each with its path; whatever is wrong raises `UserError`."""
    if not path.is_file():
        raise UserError(f"There is no file {path}; write one as docs/applications.md shows, or name another.")
    found = validate(Declaration, read_yaml(path) or {}, str(path), _beside).applications
    rows = {
        name: row.model_copy(update={"path": row.path or (f"/{name}" if place else "/")})
        for place, (name, row) in enumerate(found.items())
    }
    for name, row in rows.items():
        where = f"In {path}, applications.{name}"
        _check_name(name, where)
        _check_path(row.path, where, [other for other in rows.items() if other[0] != name])
        for product in row.models:
            if product not in project.tables.products:
                raise UserError(f"{where}: {unknown('product', product, project.tables.products)}")
    return rows


def _check_name(name: str, where: str) -> None:
    if not ALLOWED.fullmatch(name):
        raise UserError(f"{where}: the name must be small letters, digits, - and _, at most 63.")
    if name == NAME:
        raise UserError(f"{where}: the name is that of genloom serve PRODUCT; choose another one.")


def _check_path(path: str, where: str, others: Iterable[tuple[str, ApplicationRow]]) -> None:
    if not PATH.fullmatch(path):
        raise UserError(
            f"{where}: the path “{path}” must be / or such as /words, in small letters, digits, - and _."
        )
    hidden = OWN & set(path.split("/"))
    if hidden:
        raise UserError(
            f"{where}: the path {path} would hide the routes /{min(hidden)} of others; choose another one."
        )
    twice = next((name for name, row in others if row.path == path), None)
    if twice is not None:
        raise UserError(f"{where}: {twice} has the path {path} too; give one of them another.")


class Reserving(Protocol):
    """What has replicas, each of which reserves CPUs and GPUs in Ray."""

    @property
    def replicas(self) -> Replicas:
        """How many."""

    @property
    def cpus(self) -> float:
        """Of each."""

    @property
    def gpus(self) -> float:
        """Of each."""


def check_room(rows: Mapping[str, Reserving], have: Capacity, where: str) -> None:
    """Raise `UserError` with the arithmetic if the replicas reserve more CPUs or GPUs than there are.

    One replica more than asked must find room, because a new version comes up beside the old one. Ray takes a part of
    a GPU from one, so of 0.6 each there is room for one replica a GPU.
    """
    cpus = {name: (row.replicas.max, row.cpus) for name, row in rows.items() if row.cpus}
    most = max((each for _, each in cpus.values()), default=0.0)
    _check_sum(
        cpus, most, sum(count * each for count, each in cpus.values()) + most, have.cpus, where, "CPUs"
    )
    gpus = {name: (row.replicas.max, row.gpus) for name, row in rows.items() if row.gpus}
    most = max((each for _, each in gpus.values()), default=0.0)
    parts = ", as a part is one GPU's" if any(each < 1 for _, each in gpus.values()) else ""
    wanted = _cards([*gpus.values(), (1, most)]) if gpus else 0.0
    _check_sum(gpus, most, wanted, have.gpus, where, f"GPUs{parts}")


def _cards(taking: Sequence[tuple[int, float]]) -> float:
    """How many GPUs are needed for so many replicas of so much each, the largest parts placed first."""
    whole = sum(count * each for count, each in taking if each >= 1)
    free: list[float] = []
    for part in sorted((each for count, each in taking if each < 1 for _ in range(count)), reverse=True):
        place = next((place for place, left in enumerate(free) if left >= part - 1e-9), None)
        if place is None:
            free.append(1.0 - part)
        else:
            free[place] -= part
    return whole + len(free)


def _check_sum(
    taking: Mapping[str, tuple[int, float]], most: float, wanted: float, there: float, where: str, what: str
) -> None:
    """By how many replicas each has, and how much of `what` each of these reserves."""
    if wanted <= there + 1e-9:
        return
    sums = " + ".join(f"{count} × {each:g} ({name})" for name, (count, each) in taking.items())
    raise UserError(
        f"{where} reserves {sums} + {most:g} (a new version beside the old) = {wanted:g} {what}, and there are "
        f"{there:g}; lower {what.partition(',')[0].lower()} or replicas."
    )


def check_product(product: str, replicas: int | None, gpus: float | None) -> None:
    """Raise `UserError` if `genloom serve PRODUCT` asks for GPUs that cannot be had, before anything starts."""
    if not gpus:
        return
    asked = {"models": {product: "champion"}, "replicas": replicas or 1, "gpus": gpus}
    where = f"genloom serve {product}"
    row = validate(ApplicationRow, asked, where, lambda _: [])
    if (have := cluster.foreseen()) is not None:
        check_room({NAME: row}, have, where)


def _beside(location: Location) -> list[str]:
    kinds: dict[int, type[Row]] = {1: Declaration, 3: ApplicationRow}
    return list(kinds.get(len(location), Replicas).model_fields)
