"""`schedule.yaml`: when runs are retrained. The file is the truth; what Prefect knows is made from it."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from filelock import FileLock
from pydantic import Field, field_validator, model_validator
from ruamel.yaml import YAML

from components import files
from components.cron import cron_times, local_zone, next_every, read_every, zone_names
from components.errors import UserError, shortened, unknown
from components.project import NAME, Project, check_name
from components.row import Row
from components.settings import writable_home
from components.tables import read_yaml, validate

FILE = "schedule.yaml"
"""The file's name at the project's root."""
HEAD = "# When runs are retrained: genloom schedule writes this file, and so may you. Keep it in git.\n"
SHORTEST = 60
"""Seconds between two times, at least; cron knows no less either."""


class ScheduleRow(Row):
    """A run and when it is retrained: by `cron`, or `every` so often, on the clocks of `timezone`."""

    run: str
    cron: str | None = None
    every: str | None = None
    timezone: str = "UTC"
    set: Sequence[str] = ()
    workers: int | None = Field(default=None, ge=0, le=4096)
    paused: bool = False

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, expression: str | None) -> str | None:
        if expression is not None:
            next(cron_times(expression, ZoneInfo("UTC"), datetime.now(UTC)))
        return expression

    @field_validator("every")
    @classmethod
    def _is_every(cls, text: str | None) -> str | None:
        if text is not None:
            read_every(text)
        return text

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, name: str) -> str:
        if name not in zone_names():
            raise ValueError(f"there is no such timezone{_nearest(name)}")
        return name

    @model_validator(mode="after")
    def _one_time(self) -> ScheduleRow:
        if (self.cron is None) == (self.every is None):
            raise ValueError("give either cron or every, one of the two")
        return self

    @property
    def when(self) -> str:
        """Its times, as they were written."""
        return self.cron or f"every {self.every}"

    @property
    def digest(self) -> str:
        """What changes whenever anything in the row does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def next(self, after: datetime) -> datetime:
        """The first of its times after `after`, paused or not."""
        zone = ZoneInfo(self.timezone)
        if self.cron is not None:
            return next(cron_times(self.cron, zone, after))
        return next_every(read_every(self.every or ""), zone, after)


class Schedules(Row):
    """The whole file. `project` distinguishes its schedules from those of others on a Prefect server of a team."""

    project: str | None = Field(default=None, pattern=NAME.pattern)
    schedules: Mapping[str, ScheduleRow] = {}

    def row(self, name: str) -> ScheduleRow:
        """The schedule `name`; `UserError` with the nearest names if there is none."""
        if name not in self.schedules:
            raise unknown("schedule", name, self.schedules)
        return self.schedules[name]


def _nearest(name: str) -> str:
    """What to write instead of a timezone that there is not."""
    known = {zone.casefold(): zone for zone in zone_names()}
    cities = {zone.rpartition("/")[2]: zone for zone in known}
    asked = shortened(name).casefold().replace(" ", "_")
    near = difflib.get_close_matches(asked, known, n=2, cutoff=0.7)
    near = near or [cities[city] for city in difflib.get_close_matches(asked, cities, n=2, cutoff=0.7)]
    return f"; did you mean {' or '.join(known[zone] for zone in near)}" if near else ", as in Europe/Berlin"


def path_of(root: Path) -> Path:
    """Where the file of a project is, whether it is there or not."""
    return root / FILE


def read_schedules(root: Path) -> Schedules:
    """The file of the project at `root`, checked; empty if there is none. Raises `UserError`."""
    path = path_of(root)
    if not path.is_file():
        return Schedules()
    read = _checked(read_yaml(path) or {}, str(path))
    for name in read.schedules:
        check_name(name)
    return read


def named(root: Path, schedules: Schedules) -> str:
    """What distinguishes the project on a Prefect server: what the file says, or the folder's name."""
    return schedules.project or re.sub(r"[^a-z0-9_-]", "-", root.name.lower()) or "genloom"


def _checked(content: Any, where: str) -> Schedules:
    return validate(Schedules, content, where, lambda location: _fields(len(location)))


def _fields(depth: int) -> list[str]:
    return list((Schedules if depth == 1 else ScheduleRow).model_fields)


def schedule_row(run: str, **fields: Any) -> ScheduleRow:
    """A row, of this machine's timezone unless `fields` name one. Raises `UserError` that says what is wrong."""
    given = {name: value for name, value in fields.items() if value not in (None, (), [])}
    return validate(
        ScheduleRow, {"run": run, "timezone": local_zone(), **given}, "the schedule", lambda _: _fields(2)
    )


def add(project: Project, name: str, row: ScheduleRow) -> None:
    """Write a new schedule. Raises `UserError` if the name is taken."""
    check_name(name)

    def enter(tables: Any) -> None:
        if name in tables["schedules"]:
            raise UserError(
                f"There is already a schedule “{name}”; remove it, or choose another with --name."
            )
        tables["schedules"][name] = json.loads(row.model_dump_json(exclude_defaults=True))

    _edit(project, enter)


def remove(project: Project, name: str) -> None:
    """Take a schedule out of the file."""
    _edit(project, lambda tables: tables["schedules"].pop(name))


def pause(project: Project, name: str, paused: bool) -> None:
    """Write whether a schedule rests."""

    def enter(tables: Any) -> None:
        if paused:
            tables["schedules"][name]["paused"] = True
        else:
            tables["schedules"][name].pop("paused", None)

    _edit(project, enter)


def _edit(project: Project, enter: Callable[[Any], None]) -> None:
    """Change the file by one writer at a time; comments stay, and what it becomes is checked before."""
    path = path_of(project.root)
    yaml = YAML()
    yaml.width = 110
    with FileLock(writable_home(project.settings) / ".schedule-lock"):
        read_schedules(project.root)
        tables = yaml.load(path.read_text(encoding="utf-8") if path.is_file() else HEAD) or {}
        if not path.is_file():
            tables = yaml.load(f"{HEAD}project: {_fresh(project.root)}\nschedules: {{}}\n")
            tables["schedules"].fa.set_block_style()
        if tables.get("schedules") is None:
            tables["schedules"] = {}
        enter(tables)
        with files.draft(path) as draft:
            with draft.open("w", encoding="utf-8") as stream:
                yaml.dump(tables, stream)
            _checked(read_yaml(draft), str(path))


def _fresh(root: Path) -> str:
    """A name for the project that no other has."""
    return f"{named(root, Schedules())[:54]}-{secrets.token_hex(4)}"
