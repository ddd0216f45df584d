"""Migration: a database of an earlier MLflow, really made by its own migrations, and homes of other layouts."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from components.errors import FailedError, UserError
from components.layout import LAYOUT, check_layout, read_layout
from components.ops.databases import migrations, revision_of
from components.ops.migrate import migrate, pending
from components.settings import Settings, writable_home
from components.tracking import open_client

MLFLOW = ("mlflow", "store/db_migrations/versions")
PREFECT = ("prefect", "server/database/_migrations/versions/sqlite")
EARLIER = """
import sys
import sqlalchemy
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base

url = f"sqlite:///{sys.argv[1]}"
engine = sqlalchemy.create_engine(url)
Base.metadata.create_all(engine)
config = _get_alembic_config(url)
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, sys.argv[2])
    connection.execute(sqlalchemy.text(
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage) VALUES ('kept', 'x', 'active')"
    ))
"""
"""Makes a database as it was at a revision, with an experiment in it."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run log of MLflow 2.4, from before there were logged models."""
    path = tmp_path_factory.mktemp("earlier") / "mlflow.db"
    subprocess.run([sys.executable, "-c", EARLIER, path, "7f2a7d5fae7d"], check=True)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def put(settings: Settings, database: Path) -> None:
    writable_home(settings)
    shutil.copy(database, settings.home / "mlflow.db")


def tell(settings: Settings, revision: str) -> None:
    """Have the database say that it is of another revision."""
    with closing(sqlite3.connect(settings.home / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def test_an_earlier_run_log_is_brought_up_to_date_and_kept_as_it_was(
    settings: Settings, earlier: Path
) -> None:
    put(settings, earlier)
    with pytest.raises(
        UserError, match="the schema 7f2a7d5fae7d of an earlier mlflow; type genloom ops migrate"
    ):
        open_client(settings)
    assert revision_of(settings.home / "mlflow.db") == "7f2a7d5fae7d", "nothing was changed without a copy"
    (step,) = pending(settings)
    head = migrations(*MLFLOW)[1]
    assert (step.found, step.wanted) == ("7f2a7d5fae7d", head)
    done = migrate(settings)
    assert done.steps == (step,)
    assert done.kept is not None
    assert revision_of(done.kept / "mlflow.db") == "7f2a7d5fae7d"
    assert revision_of(settings.home / "mlflow.db") == head
    assert "kept" in {one.name for one in open_client(settings).search_experiments()}
    assert migrate(settings).steps == ()


@pytest.mark.long  # MLflow's command takes seconds to import
def test_a_migration_that_fails_changes_nothing(settings: Settings, earlier: Path) -> None:
    put(settings, earlier)
    with closing(sqlite3.connect(settings.home / "mlflow.db")) as database, database:
        database.execute("DROP TABLE runs")
    with pytest.raises(
        FailedError, match=r"mlflow could not bring .* up to date \(.+\), so it is as it was before"
    ):
        migrate(settings)
    assert revision_of(settings.home / "mlflow.db") == "7f2a7d5fae7d"
    with closing(sqlite3.connect(settings.home / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'kept'").fetchone() == (1,)


def test_a_newer_run_log_is_told(settings: Settings, earlier: Path) -> None:
    put(settings, earlier)
    tell(settings, "ffffffffffff")
    for call in (open_client, migrate):
        with pytest.raises(UserError, match="the schema ffffffffffff of a newer mlflow"):
            call(settings)


def test_the_last_migrations_are_those_of_the_libraries(settings: Settings) -> None:
    open_client(settings)
    assert revision_of(settings.home / "mlflow.db") == migrations(*MLFLOW)[1]
    assert migrations(*PREFECT)[1] in migrations(*PREFECT)[0]


@pytest.mark.long  # Prefect's command takes seconds to import
def test_an_earlier_database_of_flows(settings: Settings) -> None:
    writable_home(settings)
    path = settings.home / "prefect" / "prefect.db"
    path.parent.mkdir()
    url = f"sqlite+aiosqlite:///{path}"
    environment = {**os.environ, "PREFECT_HOME": str(path.parent), "PREFECT_API_DATABASE_CONNECTION_URL": url}
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "database",
        "upgrade",
        "--yes",
        "-r",
        "f416ea180ae1",
    ]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    (step,) = pending(settings)
    assert step.found == "f416ea180ae1"
    migrate(settings)
    assert revision_of(path) == migrations(*PREFECT)[1]
    assert pending(settings) == []


def test_layouts(settings: Settings) -> None:
    assert read_layout(settings.home) == LAYOUT, "what is not there yet will be of this release"
    writable_home(settings)
    assert (settings.home / "layout").read_text() == f"{LAYOUT}\n"
    (settings.home / "layout").unlink()
    (settings.home / "runs").mkdir()
    writable_home(settings)
    assert read_layout(settings.home) == 0, "a home from before there were layouts is not given one unasked"
    assert [step.name for step in pending(settings)] == ["layout"]
    migrate(settings)
    assert read_layout(settings.home) == LAYOUT
    (settings.home / "layout").write_text("2\n")
    with pytest.raises(
        UserError, match=r"the layout 2 of a newer Genloom, .* genloom ops migrate only leads to newer"
    ):
        check_layout(settings.home)
    (settings.home / "layout").write_text("two\n")
    with pytest.raises(UserError, match="holds no number"):
        check_layout(settings.home)
