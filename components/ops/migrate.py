"""Brings the home of an earlier release up to this one: its layout, and the schemas of its databases."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.errors import FailedError, UserError
from components.layout import LAYOUT, read_layout, write_layout
from components.ops.databases import Database, check_not_newer, copy_database, databases, migrations
from components.ops.running import LOCK, refuse_running
from components.promotion import ledger
from components.settings import Settings, writable_home

PATIENCE = 600.0
"""Seconds that the migration of a database may take."""
BACKUPS = "before-migration"
"""The folder in the home for the databases as they were."""


@dataclass(frozen=True)
class Step:
    """What is to be brought up to date: `found` is what it is and `wanted` what it will be; `file` is what changes."""

    name: str
    found: str
    wanted: str
    file: Path


@dataclass(frozen=True)
class Migrated:
    """What was done, and where the databases lie as they were before; None where no database was changed."""

    steps: tuple[Step, ...]
    kept: Path | None


def pending(settings: Settings) -> list[Step]:
    """What `migrate` would do, in its order. Raises `UserError` for a database of a newer release of its library."""
    found = []
    for one in databases(settings):
        check_not_newer(one)
        if one.age == "older":
            _, head = migrations(one.package, one.versions)
            found.append(Step(f"{one.name} ({one.package})", str(one.found), head, one.path))
    layout = read_layout(settings.home)
    if layout < LAYOUT:
        found.append(Step("layout", str(layout), str(LAYOUT), settings.home / "layout"))
    return found


def migrate(settings: Settings, told: Callable[[Step], None] | None = None) -> Migrated:
    """Do what is pending; a database that cannot be brought up to date is put back as it was.

    Databases are copied before. Safe to repeat: what is done is not pending. Raises `UserError` while anything runs,
    `FailedError` with the library's words.
    """
    writable_home(settings)
    steps = pending(settings)
    if not steps:
        return Migrated((), None)
    refuse_running(settings, "a migration")
    with ledger.locked(settings, LOCK):
        kept = None
        by_path = {one.path: one for one in databases(settings)}
        for step in steps:
            (told or (lambda _: None))(step)
            if (database := by_path.get(step.file)) is not None:
                kept = kept or _folder(settings)
                _upgrade(settings, database, _kept(settings, database, kept))
            else:
                write_layout(settings.home)
    return Migrated(tuple(steps), kept)


def _folder(settings: Settings) -> Path:
    folder = settings.home / BACKUPS / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept(settings: Settings, database: Database, folder: Path) -> Path:
    """A copy of the database, of which there is room for two: the copy, and what the migration writes."""
    size = database.path.stat().st_size
    free = shutil.disk_usage(folder).free
    if free < 3 * size:
        raise UserError(
            f"The migration of {database.path} needs {3 * size / 2**20:,.0f} MiB and {folder} has "
            f"{free / 2**20:,.0f} MiB left; free some, such as by genloom ops gc."
        )
    copy = folder / database.path.relative_to(settings.home)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy_database(database.path, copy)
    return copy


def _upgrade(settings: Settings, database: Database, copy: Path) -> None:
    """Have the library bring its database up to date, by its own command in a process of its own."""
    done = subprocess.run(
        _command(database, settings),
        env={**os.environ, **_environment(database)},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode == 0 and database.age == "present":
        return
    for name in ("", "-wal", "-shm", "-journal"):
        database.path.with_name(database.path.name + name).unlink(missing_ok=True)
    shutil.copyfile(copy, database.path)
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    raise FailedError(
        f"{database.package} could not bring {database.path} up to date ({said[-1] if said else 'it said nothing'}), "
        f"so it is as it was before, and a copy is {copy}; mend that and type the same command again."
    )


def _command(database: Database, settings: Settings) -> list[str]:
    if database.package == "mlflow":
        return [sys.executable, "-m", "mlflow", "db", "upgrade", settings.tracking]
    return [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]


def _environment(database: Database) -> dict[str, str]:
    """What tells Prefect which database is meant; MLflow is told in its command."""
    if database.package == "mlflow":
        return {}
    return {
        "PREFECT_HOME": str(database.path.parent),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database.path}",
        "PREFECT_API_URL": "",
    }
