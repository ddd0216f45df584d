"""A real MLflow on SQLite, made once and copied for each test; artifacts of untrained tiny families."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.artifact import About, read_manifest, save
from components.evaluation.report import Metric, Report, write_report
from components.families.family import Shape, kind_of
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.settings import Settings
from components.tracking import open_client

Make = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `mlflow.db` with nothing in it."""
    home = tmp_path_factory.mktemp("store")
    open_client(Settings(home=home))
    return home / "mlflow.db"


@pytest.fixture
def settings(empty_store: Path, tmp_path: Path) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home)
    return Settings(home=home)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make an artifact by `seed`, and its evaluation with `distance` and `precision`."""

    def call(seed: int, distance: float = 10.0, revision: str = "r1", init: str | None = None):
        artifact = tmp_path / f"artifact-{seed}"
        if not artifact.exists():
            torch.manual_seed(seed)
            family, shape = kind_of("vae")(latent=2, width=8), Shape(data=(1, 4, 4))
            about = About(
                product="digits",
                run="digits-vae",
                dataset="digits",
                revision=revision,
                licence="CC BY 4.0",
                source="digits",
                classes=[],
                modality="image",
                key=f"key-{seed}",
                parameters={"family": "vae", "init": init, "model": {"latent": 2, "width": 8}},
                commit="0123abcd",
                dirty=True,
                steps=10,
            )
            save(artifact, family, family.networks(shape), shape, about)
        evaluation = tmp_path / f"evaluation-{seed}-{distance}-{revision}"
        evaluation.mkdir(exist_ok=True)
        (evaluation / "samples.png").write_bytes(b"png")
        write_report(
            evaluation,
            Report(
                artifact=read_manifest(artifact)["digest"],
                family="vae",
                dataset="digits",
                revision=revision,
                protocol={"samples": 100},
                metrics={
                    "distance": Metric(distance, distance - 1, distance + 1, "lower"),
                    "precision": Metric(0.8, 0.7, 0.9, "higher"),
                },
                pictures=("samples.png",),
            ),
        )
        return artifact, evaluation

    return call


@pytest.fixture
def register(settings: Settings, make: Make) -> Callable[..., Version]:
    """Make and register a version by `seed` and `distance`."""

    def call(seed: int, distance: float = 10.0, revision: str = "r1", init: str | None = None) -> Version:
        artifact, evaluation = make(seed, distance, revision, init)
        return Registry(settings).register(artifact, evaluation, f"digits-vae-{seed}", "", "flow-7")

    return call
