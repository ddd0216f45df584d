"""The SQLite databases of a home: copied while others write to them, and which schema they have."""

from __future__ import annotations

import functools
import importlib.util
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.errors import FailedError, UserError
from components.settings import Settings

BUSY = 60.0
"""Seconds to wait for others who write."""
REVISION = re.compile(r"^(down_revision|revision)\b[^=\n]*= *[\"']([0-9a-f]+)[\"']", re.MULTILINE)
"""How a migration of Alembic's says which it is, and which comes before it."""

Age = Literal["present", "older", "newer"]


@dataclass(frozen=True)
class Database:
    """A database of a library's: `versions` is the folder of its migrations inside of `package`."""

    name: str
    path: Path
    package: str
    versions: str

    @property
    def found(self) -> str | None:
        """The revision of the schema; None where there is no database, or none with a revision."""
        return revision_of(self.path)

    @property
    def age(self) -> Age:
        """How the schema stands to the one that the installed library wants."""
        known, head = migrations(self.package, self.versions)
        found = self.found
        if found is None or found == head:
            return "present"
        return "older" if found in known else "newer"


def databases(settings: Settings) -> list[Database]:
    """The databases that are there: MLflow's, unless it is kept elsewhere, and those of our Prefect servers."""
    prefect = "server/database/_migrations/versions/sqlite"
    log = run_log(settings)
    found = [
        Database("flows", settings.home / "prefect" / "prefect.db", "prefect", prefect),
        Database("schedules", settings.home / "schedule" / "prefect.db", "prefect", prefect),
    ]
    return [one for one in (*([log] if log else []), *found) if one.path.is_file()]


def run_log(settings: Settings) -> Database | None:
    """MLflow's database in the home; None where it is kept elsewhere."""
    if settings.tracking_uri:
        return None
    return Database("run log", settings.home / "mlflow.db", "mlflow", "store/db_migrations/versions")


def check_not_newer(one: Database) -> None:
    """Raise `UserError` for a database of a newer release of its library."""
    if one.age == "newer":
        raise UserError(
            f"The database {one.path} has the schema {one.found} of a newer {one.package} than is installed, to which "
            "genloom ops migrate does not lead back; install that release, or restore a backup."
        )


def check_present(one: Database) -> None:
    """Raise `UserError` unless the schema is the installed library's: MLflow itself would change it, with no copy."""
    check_not_newer(one)
    if one.age == "older":
        raise UserError(
            f"The database {one.path} has the schema {one.found} of an earlier {one.package}; type genloom ops "
            "migrate, which copies it and brings it up to date."
        )


def revision_of(path: Path) -> str | None:
    """The revision that Alembic wrote into the database at `path`. Raises `FailedError` if it is none."""
    if not path.is_file():
        return None
    try:
        with closing(read_only(path)) as connection:
            if not connection.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
            ).fetchone():
                return None
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.DatabaseError as error:
        raise FailedError(
            f"The database {path} cannot be read ({error}); restore it from a backup."
        ) from error
    return None if row is None else str(row[0])


@functools.cache
def migrations(package: str, versions: str) -> tuple[frozenset[str], str]:
    """All revisions that the installed `package` knows, and the last of them.

    The files are read and not imported, which would take seconds and import the whole package.
    """
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    texts = [
        path.read_text(encoding="utf-8") for place in places for path in Path(place, versions).glob("*.py")
    ]
    pairs = [dict(REVISION.findall(text)) for text in texts]
    known = {pair["revision"] for pair in pairs if "revision" in pair}
    heads = known - {pair.get("down_revision") for pair in pairs}
    if len(heads) != 1:
        raise FailedError(
            f"The migrations of {package} cannot be read: {len(heads)} of {len(known)} are the last; install the "
            "versions that pyproject.toml names."
        )
    return frozenset(known), heads.pop()


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, not even a missing database."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY)


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, while others write to it (SQLite's online backup), and check the copy.

    Raises `FailedError` if the database is damaged, or others never let it be read.
    """
    try:
        with closing(read_only(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")  # of a copy all is in one file
            damage = new.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        raise FailedError(
            f"The database {source} cannot be copied ({error}); mend it, and try again."
        ) from error
    if damage != "ok":
        raise FailedError(f"The database {source} is damaged ({damage}); restore it from an earlier backup.")
