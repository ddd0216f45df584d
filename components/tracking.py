"""The run log: MLflow on SQLite in the project's home, or at the server that GENLOOM_TRACKING_URI names."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from components.errors import UserError
from components.ops.databases import check_present, run_log
from components.project import flatten
from components.settings import Settings, quiet_environment, writable_home

TAG = "genloom."
"""What the names of our tags begin with."""
BATCH = {"metrics": 1000, "params": 100}
"""What MLflow takes in one request."""
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""A server that is down is reported after a quarter of a minute, not after MLflow's four minutes of retries."""
ABSOLUTE = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's database keeps absolute paths of artifacts."""

Status = Literal["FINISHED", "FAILED", "KILLED"]
P = ParamSpec("P")
R = TypeVar("R")


class HasSettings(Protocol):
    """Anything that speaks to MLflow on behalf of a project."""

    @property
    def settings(self) -> Settings:
        """The settings that name the store."""


S = TypeVar("S", bound=HasSettings)


def asks(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Turn the failure of a store that `method` asks into a `UserError`; what MLflow says of names passes."""

    @wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except MlflowException as error:
            if error.error_code.startswith(("RESOURCE_", "INVALID_")):
                raise
            raise _silent(self.settings, error) from error

    return wrapped


def tells(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """As `asks`; that the store does not know the run (any more) is one more way of failing."""

    @wraps(method)
    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except (MlflowException, OSError) as error:
            raise _silent(self.settings, error) from error

    return wrapped


def _silent(settings: Settings, error: Exception) -> UserError:
    """One sentence for a store that does not answer, without the password in its URI."""
    cause = getattr(error, "strerror", None) or _cause(str(error)) or type(error).__name__
    store = shown(settings)
    return UserError(
        f"The tracking store {store} failed ({cause}); start or mend it, or set GENLOOM_TRACKING_URI to another."
    )


def shown(settings: Settings) -> str:
    """The store's URI without the password in it."""
    return re.sub(r"//[^/@]*@", "//", settings.tracking)


def _cause(message: str) -> str:
    """The last clause of the first sentence of `message`, at most about 160 characters."""
    line = " ".join((message.strip().splitlines() or [""])[0].split())
    clause = re.split(r"\. (?=[A-Z])", line)[0].rpartition(": ")[2].rstrip(".")
    if clause.count(")") > clause.count("("):  # the end of an exception's repr, cut free of its beginning
        clause = clause.rstrip("\"')")
    return clause if len(clause) <= 160 else f"{clause[:160].rpartition(' ')[0]} …"


def open_client(settings: Settings) -> MlflowClient:
    """A client of the project's store; the SQLite file is created by one process at a time.

    Raises `UserError` if the store cannot be opened. A server is first asked by the client's methods.
    """
    quiet_environment()
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    home = writable_home(settings)
    try:
        with FileLock(home / "mlflow.lock"):
            if (log := run_log(settings)) is not None:
                check_present(log)
                _follow_move(home)
            return MlflowClient(tracking_uri=settings.tracking)
    except (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
        raise _silent(settings, error) from error


def served(settings: Settings) -> bool:
    """Whether an MLflow server keeps the log, and not a database that this process opens."""
    return settings.tracking.startswith(("http://", "https://"))


def artifacts(home: Path) -> str:
    """The URI of the folder below `home` for what MLflow keeps in files, when no server keeps them."""
    return (home / "mlartifacts").as_uri()


def _follow_move(home: Path) -> None:
    """Correct the absolute paths in the database if the project's folder was moved or copied."""
    database = home / "mlflow.db"
    if not database.is_file():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        known = connection.execute("SELECT name FROM sqlite_master WHERE name = 'model_versions'").fetchone()
        query = "SELECT artifact_location FROM experiments WHERE artifact_location LIKE '%/mlartifacts/%'"
        row = connection.execute(query).fetchone() if known else None
        if row is None:
            return
        old, new = row[0].rpartition("/mlartifacts/")[0] + "/mlartifacts/", artifacts(home) + "/"
        if old != new:
            rewrite(connection, old, new)


def rewrite(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Put `new` in the place of `old` in all absolute paths of MLflow's database."""
    for table, column in ABSOLUTE:
        connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (old, new))


def experiment_of(client: MlflowClient, settings: Settings, product: str) -> str:
    """The id of the product's experiment, created if it is missing and restored if it was deleted."""
    found = client.get_experiment_by_name(product)
    if found is None:
        location = None if served(settings) else f"{artifacts(settings.home)}/{product}"
        try:
            return str(client.create_experiment(product, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(product)
    # one that somebody has deleted keeps its name until it is restored
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


class Tracker:
    """Writes training runs to MLflow, each into the experiment of its product."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = open_client(settings)

    @tells
    def begin(
        self,
        run_id: str,
        name: str,
        parameters: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str = "",
    ) -> str:
        """The id of the MLflow run for the training `run_id`: the unfinished one if there is, or a new one.

        `tags` must hold `product`. Nested parameters are logged, once, as `model.latent`. A new run is shown below
        the run `parent`.
        """
        experiment = experiment_of(self.client, self.settings, tags["product"])
        run = self._unfinished(experiment, run_id)
        if run is None:
            ours = {f"{TAG}{key}": value for key, value in tags.items()}
            ours |= {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
            run = self.client.create_run(experiment, run_name=name, tags={**ours, f"{TAG}run_id": run_id})
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        if not run.data.params:
            self._log_parameters(run.info.run_id, parameters)
        return str(run.info.run_id)

    def _unfinished(self, experiment: str, run_id: str) -> Run | None:
        found = self.client.search_runs(
            [experiment], filter_string=f"tags.`{TAG}run_id` = '{run_id}'", max_results=1
        )
        return found[0] if found and found[0].info.status != "FINISHED" else None

    def _log_parameters(self, tracking_run: str, parameters: Mapping[str, Any]) -> None:
        flat = [Param(name, str(value)) for name, value in flatten(parameters)]
        for start in range(0, len(flat), BATCH["params"]):
            self.client.log_batch(tracking_run, params=flat[start : start + BATCH["params"]])

    @tells
    def log(self, tracking_run: str, values: Mapping[int, Mapping[str, float]]) -> None:
        """Log the values of each step in as few requests as MLflow takes."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, step)
            for step, found in values.items()
            for name, value in found.items()
        ]
        for start in range(0, len(metrics), BATCH["metrics"]):
            self.client.log_batch(tracking_run, metrics=metrics[start : start + BATCH["metrics"]])

    @tells
    def picture(self, tracking_run: str, path: Path, folder: str = "samples") -> None:
        """Keep the file at `path` with the run, under `folder`."""
        self.client.log_artifact(tracking_run, str(path), folder)

    @tells
    def sizes(self, tracking_run: str, folder: str) -> dict[str, int]:
        """The bytes of the files that the run keeps under `folder`, by name."""
        kept = self.client.list_artifacts(tracking_run, folder)
        return {Path(one.path).name: one.file_size for one in kept if not one.is_dir}

    @tells
    def end(self, tracking_run: str, status: Status) -> None:
        """Close the run; one that is not FINISHED is re-opened by `begin`."""
        self.client.set_terminated(tracking_run, status)
