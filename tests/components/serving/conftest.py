"""Small untrained models: what they draw does not matter here, only that it is always the same; one real server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from components.artifact import About, read_manifest, save
from components.evaluation.report import Metric, Report, write_report
from components.families.family import Shape
from components.families.vae import VAE
from components.project import open_project
from components.serving import server
from components.settings import Settings
from flows.commands import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def artifact() -> Callable[..., Path]:
    """Write an artifact of 8×8 pictures; another `seed` makes another model."""

    def write(folder: Path, product: str = "digits", seed: int = 0) -> Path:
        torch.manual_seed(seed)
        family, shape = VAE(latent=4, width=32, depth=1), Shape(data=(1, 8, 8))
        about = About(
            product=product,
            run=f"{product}-vae",
            dataset=product,
            revision="0" * 16,
            licence="CC BY 4.0",
            source="digits",
            classes=(),
            modality="image",
            key=f"{seed}",
            parameters={},
            commit="",
            dirty=False,
            steps=0,
        )
        save(folder, family, family.networks(shape), shape, about)
        return folder

    return write


@dataclass(frozen=True)
class Site:
    """A project with two versions of the digits; the first is the champion."""

    root: Path
    settings: Settings


@pytest.fixture(scope="session")
def site(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Site:
    from components.promotion.promote import promote
    from components.promotion.registry import Registry

    root = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "params.yaml", root)
    project = open_project(root)
    registry = Registry(project.settings)
    for number in (1, 2):
        folder = artifact(root / f"artifact-{number}", seed=number)
        evaluation = root / f"evaluation-{number}"
        evaluation.mkdir()
        metrics = {"distance": Metric(1.0, 0.9, 1.1, "lower")}
        report = Report(
            artifact=str(read_manifest(folder)["digest"]),
            family="vae",
            dataset="digits",
            revision="r1",
            protocol={"samples": 1},
            metrics=metrics,
        )
        write_report(evaluation / "report.json", report)
        registry.register(folder, evaluation, f"digits-vae-{number}", "")
        if number == 1:
            promote(project.settings, "digits", project.product("digits"))
    return Site(root, project.settings)


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def genloom(
    site: Site, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Run a command in this process, in the site's folder."""
    monkeypatch.chdir(site.root)

    def call(*arguments: str | Path) -> Said:
        capfd.readouterr()
        code = main.run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def elsewhere(site: Site) -> Callable[..., Said]:
    """Run a command in a process of its own, because a process can join one Ray only."""

    def call(*arguments: str) -> Said:
        done = subprocess.run(
            [Path(sys.executable).parent / "genloom", *arguments],
            cwd=site.root,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def url(site: Site, port: int, elsewhere: Callable[..., Said]) -> Iterator[str]:
    """The champion behind a real server in the background; it is gone when the tests are over."""
    said = elsewhere("serve", "digits", "--detach", "--port", str(port))
    assert said.code == 0, said.err
    assert "digits/1 (vae) is served at" in said.out
    yield f"http://127.0.0.1:{port}"
    server.stop(site.settings)
