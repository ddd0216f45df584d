"""Small untrained models: what they draw does not matter here, only that it is always the same; one real server."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from components.artifact import About, read_manifest, save
from components.evaluation.report import Metric, Report, write_report
from components.families.diffusion import Diffusion
from components.families.family import Family, Shape
from components.families.gpt import GPT
from components.families.pix2pix import Pix2Pix
from components.families.vae import VAE
from components.modalities.conditions import Conditions
from components.modalities.corruption import Corruption
from components.modalities.tokenizer import train_tokenizer
from components.modalities.views import View
from components.project import open_project
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.serving import server
from components.serving.catalog import Catalog, Served, open_version
from components.serving.routes.application import create_app
from components.settings import Settings
from flows.commands import main
from tests.components.serving.painter import mirrors, written
from tests.components.serving.parrot import parrot

ROOT = Path(__file__).resolve().parents[3]


PICTURES: Mapping[str, tuple[Family, Shape, Conditions]] = {
    "kinds": (
        Diffusion(width=16, depth=1, levels=1),
        Shape(data=(1, 8, 8), classes=3),
        Conditions(),
    ),
    "holes": (
        Pix2Pix(**Pix2Pix.small),
        Shape(data=(3, 16, 16), source=(4, 16, 16)),
        Conditions(Corruption("mask", 0.4), view=View(crop=16)),
    ),
}
"""Products of pictures by class, by diffusion, and with holes to be filled."""


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


@pytest.fixture(scope="session")
def talker() -> Callable[[Path], Path]:
    """Write an artifact of a small GPT that chats in bytes and has learnt nothing: any token may follow."""

    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        assets = folder.with_name(f"{folder.name}-assets")
        assets.mkdir()
        tokenizer = train_tokenizer("bytes", [], 0, chat=True)
        tokenizer.save(assets)
        family = GPT(layers=2, heads=2, width=32)
        shape = Shape(data=(128,), vocabulary=tokenizer.vocabulary, prompt=(128, tokenizer.vocabulary))
        about = About(
            product="tales",
            run="tales-gpt",
            dataset="tales",
            revision="0" * 16,
            licence="CC0",
            source="text",
            classes=(),
            modality="text",
            key="0",
            parameters={},
            commit="",
            dirty=False,
            steps=0,
        )
        save(folder, family, family.networks(shape), shape, about, assets)
        return folder

    return write


@dataclass(frozen=True)
class Site:
    """A project with two versions of the digits, of which the first is the champion, and one of the others."""

    root: Path
    settings: Settings


def register(registry: Registry, folder: Path, product: str, family: str) -> Version:
    """Make the artifact in `folder` the product's next version, with a report of one metric."""
    evaluation = folder.with_name(f"evaluation-{folder.name}")
    evaluation.mkdir()
    report = Report(
        artifact=str(read_manifest(folder)["digest"]),
        family=family,
        dataset=product,
        revision="r1",
        protocol={"samples": 1},
        metrics={"distance": Metric(1.0, 0.9, 1.1, "lower")},
    )
    write_report(evaluation, report)
    return registry.register(folder, evaluation, f"{product}-{family}-{folder.name}", "")


@pytest.fixture(scope="session")
def site(
    artifact: Callable[..., Path], talker: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Site:
    return a_site(tmp_path_factory.mktemp("site"), artifact, talker)


def a_site(root: Path, artifact: Callable[..., Path], talker: Callable[[Path], Path]) -> Site:
    """Make a site in the empty folder `root`."""
    from components.promotion.promote import promote

    tables = (ROOT / "params.yaml").read_text(encoding="utf-8")
    # what the product's versions were trained on does not matter to who serves them
    added = "".join(f"  {name}: {{dataset: digits, task: free}}\n" for name in ("tales", *PICTURES))
    tables = tables.replace("products:\n", f"products:\n{added}")
    (root / "params.yaml").write_text(tables, encoding="utf-8")
    project = open_project(root)
    registry = Registry(project.settings)

    register(registry, artifact(root / "artifact-1", seed=1), "digits", "vae")
    promote(project.settings, "digits", project.product("digits"))
    register(registry, artifact(root / "artifact-2", seed=2), "digits", "vae")
    register(registry, talker(root / "artifact-3"), "tales", "gpt")
    promote(project.settings, "tales", project.product("tales"))
    for name, (family, shape, conditions) in PICTURES.items():
        register(
            registry, written(root / name, family, shape, conditions), name, type(family).__name__.lower()
        )
        promote(project.settings, name, project.product(name))
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


MORE = f"""
from components import cluster
from components.project import open_project
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.promotion.registry import Registry
from components.serving import app
from components.serving.catalog import Served

settings = open_project().settings
registry = Registry(settings)
versions = [registry.version(name, "champion") for name in {[*PICTURES]}]
cluster.connect(settings)
more = [Served(found.product, found.number, registry.fetch(found), 0) for found in versions]
app.roll_out([*app.served(), *more], settings)
"""
"""Serves the products of pictures at one stroke, in a process of its own."""


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def elsewhere(site: Site) -> Callable[..., Said]:
    """Run a command in a process of its own, because a process can join one Ray only."""
    return partial(run_at, site.root)


def run_at(root: Path, *arguments: str) -> Said:
    """Run a command in a process of its own, in the folder `root`."""
    done = subprocess.run(
        [Path(sys.executable).parent / "genloom", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def url(site: Site, port: int, elsewhere: Callable[..., Said]) -> Iterator[str]:
    """The champions behind a real server in the background; it is gone when the tests are over."""
    said = elsewhere("serve", "digits", "--detach", "--port", str(port))
    assert said.code == 0, said.err
    assert "digits/1 (vae) is served at" in said.out
    said = elsewhere("serve", "tales", "--detach")
    assert said.code == 0, said.err
    assert f"curl -N http://127.0.0.1:{port}/v1/chat/completions" in said.out
    assert "genloom chat tales" in said.out
    deployed = subprocess.run([sys.executable, "-c", MORE], cwd=site.root, check=False, timeout=300)
    assert deployed.returncode == 0
    yield f"http://127.0.0.1:{port}"
    server.stop(site.settings)


@pytest.fixture(scope="session")
def text_catalog(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """Parrots of three kinds and the digits."""
    root = tmp_path_factory.mktemp("text")
    digits = Served("digits", 1, artifact(root / "digits-artifact"), 0)
    return Catalog(
        {
            "tales": parrot(root),
            "plain": parrot(root, "plain", chat=False),
            "pairs": parrot(root, "pairs", chat=False, source=True),
            "digits": open_version(digits, Settings(home=root)),
        }
    )


@pytest.fixture(scope="session")
def text_client(text_catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(text_catalog), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="session")
def mirrors_catalog(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The mirrors, which give back what is sent, and the digits."""
    root = tmp_path_factory.mktemp("mirrors")
    digits = open_version(Served("digits", 1, artifact(root / "vae"), 0), Settings(home=root))
    return Catalog({**mirrors(root), "digits": digits})


@pytest.fixture(scope="session")
def mirrors_client(mirrors_catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(mirrors_catalog), raise_server_exceptions=False) as client:
        yield client
