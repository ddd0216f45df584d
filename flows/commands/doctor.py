"""`genloom doctor`: is this machine fit, and if not, what to mend."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

import typer

from flows.commands.show import AsJson, listing

if TYPE_CHECKING:
    from components.settings import Settings

PATIENCE = 20.0
"""Seconds that nvidia-smi has to answer."""
BACKUP_DAYS = 7
"""Days after which a backup is so old that it is worth a note."""
Verdict = Literal["ok", "mend", "note"]
PORTS = {"https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433, "ray": 10001, "": 6379}
"""Where a service listens if its address names no port, by scheme; Ray's own address has no scheme. Else 80."""


class Finding(NamedTuple):
    """One line of the examination: `mend` findings make the command fail."""

    subject: str
    verdict: Verdict
    found: str


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("doctor")(examine)


def examine(as_json: AsJson = False) -> None:
    """Check versions, cores, memory, disk, GPU, ports and services, and say what to mend. Exit code 1 if anything."""
    findings = [*_versions(), *_machine(), *_project()]
    listing([finding._asdict() for finding in findings], as_json)
    if any(finding.verdict == "mend" for finding in findings):
        raise typer.Exit(1)


def _versions() -> Iterator[Finding]:
    """Python and every direct dependency against the ranges of the distribution itself."""
    from packaging.requirements import Requirement

    python = platform.python_version()
    yield Finding("Python", "ok" if sys.version_info >= (3, 11) else "mend", python)
    for line in requires("genloom") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(wanted.name)
        except PackageNotFoundError:
            yield Finding(wanted.name, "mend", f"not installed; type pip install '{wanted}'")
            continue
        fits = wanted.specifier.contains(have, prereleases=True)
        mend = "" if fits else f", needs {wanted.specifier}; type pip install '{wanted}'"
        yield Finding(wanted.name, "ok" if fits else "mend", have + mend)


def _machine() -> Iterator[Finding]:
    import psutil

    from components import cluster

    cores = cluster.cores()
    yield Finding(
        "cores", "ok" if cores >= 2 else "note", f"{cores}{'' if cores >= 2 else '; two are comfortable'}"
    )
    memory = psutil.virtual_memory().available / 2**30
    enough = memory >= 3
    yield Finding(
        "memory",
        "ok" if enough else "mend",
        f"{memory:.1f} GiB free{'' if enough else '; 3 are needed, end something'}",
    )
    for tool in ("git", "make"):
        found = shutil.which(tool)
        yield Finding(tool, "ok" if found else "mend", found or f"not found; install {tool}")
    yield Finding("GPU", "note", _gpu())


def _gpu() -> str:
    """Ask nvidia-smi, because importing torch for this would take longer than all else."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none; training runs on the CPU"
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    except (subprocess.TimeoutExpired, OSError) as error:
        return f"nvidia-smi does not answer ({type(error).__name__}); mend the driver to train on a GPU"
    return " · ".join(done.stdout.strip().splitlines()) or "nvidia-smi finds none"


def _project() -> Iterator[Finding]:
    from components.errors import UserError
    from components.project import open_project
    from components.settings import writable_home

    try:
        project = open_project()
        home = writable_home(project.settings)
    except UserError as error:
        yield Finding("project", "mend", str(error))
        return
    yield Finding("project", "ok", f"{project.root}: {len(project.tables.runs)} runs")
    free = shutil.disk_usage(home).free / 2**30
    yield Finding("disk", "ok" if free >= 2 else "mend", f"{free:.0f} GiB free at {home}")
    for mirror in project.settings.mirrors:
        there = mirror.is_dir()
        yield Finding(
            "GENLOOM_MIRROR",
            "ok" if there else "mend",
            f"{mirror}{'' if there else ' is no folder; mend it'}",
        )
    yield _backup(project.settings)
    yield _migration(project.settings)
    yield _port(project.settings.host, project.settings.port)
    yield _tls(project.settings)
    yield from _services(project.settings.tracking_uri)


def _backup(settings: Settings) -> Finding:
    """How old the last backup is, of a home in which there is something to lose."""
    from components.ops.last import last_backup

    last = last_backup(settings)
    if last is not None:
        late = last.age.days >= BACKUP_DAYS
        again = f"; type genloom ops backup {last.target}" if late else ""
        return Finding(
            "backup",
            "note" if late else "ok",
            f"{_ago(last.age.total_seconds())} ago, in {last.target}{again}",
        )
    if not (settings.home / "mlflow.db").is_file():
        return Finding("backup", "ok", "nothing to keep yet")
    return Finding("backup", "note", "none was made; type genloom ops backup FOLDER")


def _ago(seconds: float) -> str:
    """Days, hours or minutes."""
    for unit, size in (("days", 86_400), ("hours", 3600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"


def _migration(settings: Settings) -> Finding:
    """Whether the home and its databases are those of this release; databases are only asked for their revision."""
    from components.errors import UserError
    from components.ops.migrate import pending

    try:
        steps = pending(settings)
    except UserError as error:
        return Finding("migration", "mend", str(error))
    if not steps:
        return Finding("migration", "ok", "nothing to migrate")
    told = ", ".join(f"{step.name} {step.found} → {step.wanted}" for step in steps)
    # the run log's database must be up to date before anything can be done, all else is read as it is
    bad = any(step.file.name == "mlflow.db" for step in steps)
    return Finding("migration", "mend" if bad else "note", f"{told}; type genloom ops migrate")


def _port(host: str, port: int) -> Finding:
    """Whether the server's port is free on the address that the server would take."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        return Finding("port", "mend", f"GENLOOM_HOST {host} is no address ({cause}); set it right")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do; a listener still refuses
        try:
            probe.bind(address)
        except OSError as error:
            cause = error.strerror or str(error)
            return Finding("port", "note", f"{port} cannot be taken on {host}: {cause}; serve with --port")
    return Finding("port", "ok", f"{port} is free on {host}")


def _tls(settings: Settings) -> Finding:
    """Whether certificate and key can be served with."""
    from components.errors import UserError
    from components.serving import tls

    if settings.tls_cert is None:
        return Finding(
            "TLS", "note", "not set: plain HTTP; set GENLOOM_TLS_CERT and GENLOOM_TLS_KEY for HTTPS"
        )
    try:
        tls.check(settings)
    except UserError as error:
        return Finding("TLS", "mend", str(error))
    return Finding("TLS", "ok", f"{settings.tls_cert} and its key")


def _services(tracking_uri: str) -> Iterator[Finding]:
    """Whatever service the environment names must answer."""
    yield _service("GENLOOM_TRACKING_URI", tracking_uri)
    for name in ("PREFECT_API_URL", "RAY_ADDRESS"):
        yield _service(name, os.environ.get(name, ""))


def _service(name: str, address: str) -> Finding:
    """One service; a password in its address is not repeated."""
    if not address:
        return Finding(name, "ok", "not set: local, in GENLOOM_HOME")
    shown = re.sub(r"//[^/]*@", "//***@", address)
    if name == "RAY_ADDRESS" and address in ("auto", "local"):
        return Finding(name, "ok", f"{address}: Ray finds or starts the cluster itself")
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return Finding(name, "mend", f"{shown} is no address: {str(error).rstrip('.')}; set it right")
    if host is None or parts.scheme in ("sqlite", "file"):
        return Finding(name, "ok", shown)
    there = _answers(host, port or PORTS.get(parts.scheme.partition("+")[0], 80))
    return Finding(
        name, "ok" if there else "mend", f"{shown} {'answers' if there else 'does not answer; start it'}"
    )


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except (OSError, UnicodeError):  # UnicodeError: a name that no host can have
        return False
