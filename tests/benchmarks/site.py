"""The server that the benchmarks of serving press: products with fresh weights, one Ray, one proxy, its replicas."""

from __future__ import annotations

import dataclasses
import importlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from components import families
from components.artifact import save
from components.families.family import Family, Shape
from components.project import ProductRow, Project
from components.promotion.promote import promote
from components.promotion.registry import Registry
from components.serving import server
from tests.components.families.rows import an_about
from tests.components.serving.conftest import free_port, register
from tests.until import until

ROOT = Path(__file__).resolve().parents[2]
MNIST, SMALL = Shape(data=(1, 28, 28)), Shape(data=(1, 8, 8))
DRAW = "/v1/images/generations"
DEPLOY = """
import sys
from components.project import open_project
from components.promotion.registry import Registry
from components.serving import server

settings, replicas = open_project().settings, int(sys.argv[1])
registry = Registry(settings)
for product in sys.argv[2:]:
    server.deploy(settings, product, registry.version(product, "champion"), follows=True)
if replicas > 1:
    from components.serving import app

    app.roll_out(app.served(), settings, replicas=replicas)
"""
"""Deploys in a process of its own: one that has joined a Ray ends when that Ray does."""


def echo(where: Project, pause: float = 0.0) -> Family:
    """The family `echo` in the project's own copy of `components`, which its server imports."""
    folder = where.root / "components" / "families"
    shutil.copy(ROOT / "tests" / "benchmarks" / "echo.py", folder / "echo.py")
    os.environ["PYTHONPATH"] = os.pathsep.join((str(where.root), str(ROOT)))
    if str(folder) not in families.__path__:
        families.__path__.append(str(folder))
    kind = importlib.import_module("components.families.echo").Echo
    made: Family = kind(pause=pause)
    return made


def publish(
    where: Project, product: str, family: Family, shape: Shape, seed: int = 1, assets: Path | None = None
) -> Path:
    """Register fresh networks as the product's next version, the first as its champion; the artifact's folder."""
    torch.manual_seed(seed)
    folder = where.settings.home / f"fresh-{product}-{seed}"
    about = dataclasses.replace(an_about(shape), product=product)
    save(folder, family, family.networks(shape), shape, about, assets)
    register(Registry(where.settings), folder, product, type(family).__name__.lower())
    if seed == 1:
        promote(where.settings, product, ProductRow(dataset=product), 1, force=True)
    return folder


@contextmanager
def serving(where: Project, products: Sequence[str], replicas: int = 1) -> Iterator[str]:
    """The champions behind a server in the background, which ends with the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection is a file, here and there
    running = server.start_detached(where.settings, free_port(), "127.0.0.1")
    try:
        line = [sys.executable, "-c", DEPLOY, str(replicas), *products]
        subprocess.run(line, cwd=where.root, check=True)
        until(lambda: len(processes(where)) == replicas)
        yield running.url
    finally:
        assert server.stop(where.settings) is not None, running
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def processes(where: Project) -> list[psutil.Process]:
    """The replicas of the running server."""
    running = server.find(where.settings)
    assert running is not None
    found = []
    for child in psutil.Process(running.pid).children(recursive=True):
        try:
            if "ServeReplica" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue  # it ended while it was asked
    return found
