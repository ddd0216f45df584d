"""What the environment decides: the variables `GENLOOM_*`, and the quiet, offline defaults of the stack."""

import os
import threading
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from components import layout
from components.errors import UserError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Prefect's server keeps the flows' logs; the terminal gets our own lines, and an error once
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "DVC_NO_ANALYTICS": "1",
    # OpenMP's threads soon wait asleep: those that spin for long, as by default, halve the speed of a training as
    # soon as anything else wants one of their cores (15 steps a second instead of 25), and half as many spins cost a
    # quiet machine a twentieth
    "GOMP_SPINCOUNT": "2000",
}
"""Every library asks nobody, tells nobody and shares the cores, unless the caller's environment says otherwise."""


LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""The hosts that only this machine reaches."""


class Settings(BaseSettings):
    """The environment of one project, read once; `home` is where all local state lives."""

    model_config = SettingsConfigDict(
        env_prefix="GENLOOM_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    home: Path = Path(".genloom")
    tracking_uri: str = ""
    storage: Path | None = None
    mirror: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    threads: int | None = Field(default=None, ge=1)
    producer: str = Field(default="", max_length=64)
    records_days: int = Field(default=30, ge=1, le=36_500)
    access_days: int = Field(default=30, ge=0, le=36_500)
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    proxy: Literal["haproxy", "ray"] = "haproxy"

    @cached_property
    def mirrors(self) -> list[Path]:
        """Folders that may hold the bytes that a URL and a hash name, in order of preference."""
        return [expanded(part, "GENLOOM_MIRROR") for part in self.mirror.split(os.pathsep) if part]

    @property
    def tracking(self) -> str:
        """MLflow's tracking URI: a server's, or the SQLite file in `home`."""
        path = self.home / "mlflow.db"
        if self.tracking_uri or "?" not in str(path):
            return self.tracking_uri or f"sqlite:///{path}"
        # SQLAlchemy takes what follows a ? for options, but hands a file's own URI on; MLflow, which would take that
        # for a relative path and make its folders, looks into no URI that names the driver
        return f"sqlite+pysqlite:///file:{quote(str(path))}?uri=true"

    @property
    def shared(self) -> Path:
        """Where runs and published data live; all nodes of a cluster see this folder."""
        return self.storage or self.home

    @property
    def runs(self) -> Path:
        """One folder a training run: progress, pictures, resume state, the artifact."""
        return self.shared / "runs"


def read_settings(root: Path) -> Settings:
    """The settings of the project at `root`; a relative `GENLOOM_HOME` is taken from there.

    Raises `UserError` if a variable holds a value that cannot be meant.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "GENLOOM_" + str(first["loc"][0]).upper()
        raise UserError(f"{name} is {first['input']!r}: {first['msg']}; set it right or unset it.") from error
    paths = {"home": _path(root, "GENLOOM_HOME", settings.home)}
    for field in ("storage", "tls_cert", "tls_key", "tls_ca"):
        if (path := getattr(settings, field)) is not None:
            paths[field] = _path(root, f"GENLOOM_{field.upper()}", path)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise UserError("Of GENLOOM_TLS_CERT and GENLOOM_TLS_KEY only one is set; set both, or neither.")
    return settings.model_copy(update=paths)


def _path(root: Path, name: str, path: Path) -> Path:
    """The absolute path of a folder or file that a variable names."""
    if ":/" in str(path):
        kind = "file" if "TLS" in name else "folder"
        raise UserError(f"{name} is {path}: it must be a {kind}, not a URL; mount it, or unset {name}.")
    return (root / expanded(path, name)).resolve()


def expanded(path: Path | str, name: str) -> Path:
    """`path` with the home folder for a `~` at its beginning; `UserError` about `name` if it is no user's."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} is {path}: there is no such user; write the folder out.") from error


def cluster_address() -> str:
    """The address of the cluster that `RAY_ADDRESS` names; empty where Ray is the project's own, on this machine."""
    return os.environ.get("RAY_ADDRESS", "")


def quiet_environment() -> None:
    """Set the quiet, offline defaults for this process and those it starts; call it before heavy imports."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not cluster_address():
        # Despite its name it decides on Linux too: off, a local Ray takes 127.0.0.1 and binds nothing else.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def writable_home(settings: Settings) -> Path:
    """Make `home` and the shared folder if they are missing and prove that they take a file.

    Returns `home`; raises `UserError` if one cannot be written.
    """
    for name, folder in {"GENLOOM_HOME": settings.home, "GENLOOM_STORAGE": settings.shared}.items():
        probe = folder / f".writable-{os.getpid()}-{threading.get_ident()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"The folder {folder} ({name}) cannot be written: {error.strerror}; "
                f"free some space, change its permissions, or set {name} to another folder."
            ) from error
    layout.mark_new(settings.home)
    return settings.home
