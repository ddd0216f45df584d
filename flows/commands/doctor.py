"""`genloom doctor`: is this machine fit, and if not, what to mend."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal, NamedTuple

import typer

from flows.commands.show import AsJson, listing

Verdict = Literal["ok", "mend", "note"]


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

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
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
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False, timeout=20)
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
    port = project.settings.port
    busy = _answers("127.0.0.1", port)
    yield Finding(
        "port", "note" if busy else "ok", f"{port} is {'in use; serve with --port' if busy else 'free'}"
    )
    yield from _services(project.settings.tracking_uri)


def _services(tracking_uri: str) -> Iterator[Finding]:
    """Whatever service the environment names must answer."""
    named = {
        "GENLOOM_TRACKING_URI": tracking_uri,
        "PREFECT_API_URL": os.environ.get("PREFECT_API_URL", ""),
        "RAY_ADDRESS": os.environ.get("RAY_ADDRESS", ""),
    }
    from urllib.parse import urlsplit

    for name, address in named.items():
        if not address:
            yield Finding(name, "ok", "not set: local, in GENLOOM_HOME")
            continue
        parts = urlsplit(address if "://" in address else f"//{address}")
        if parts.hostname is None:
            yield Finding(name, "ok", address)
            continue
        port = parts.port or (443 if parts.scheme == "https" else 80)
        there = _answers(parts.hostname, port)
        yield Finding(
            name,
            "ok" if there else "mend",
            f"{address} {'answers' if there else 'does not answer; start it'}",
        )


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
