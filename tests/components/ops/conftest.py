"""A project with a promoted version, a training that was stopped half-way, keys and records; made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from components.artifact import read_manifest
from components.errors import FailedError
from components.evaluation.report import Metric, Report, write_report
from components.project import Project, open_project
from components.promotion.promote import promote
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.serving.keys import keyring
from components.train.attempts import Trained
from components.train.launch import train
from tests.components.train.test_local import SMALL, slowly

TINY = [
    "train.steps=20",
    "train.threads=1",
    "model.width=16",
    "train.checkpoint_every=10",
    "train.log_every=10",
]
RECORD = '{"request": "r-1"}\n'


@dataclass(frozen=True)
class Site:
    """The project, the secret of its key, and the folder of the training that was stopped."""

    root: Path
    secret: str
    stopped: Path

    @property
    def project(self) -> Project:
        return open_project(self.root)


def version(project: Project, trained: Trained, distance: float) -> Version:
    """Register what was trained, with a report of one metric."""
    evaluation = trained.folder / "evaluation"
    evaluation.mkdir(exist_ok=True)
    report = Report(
        artifact=str(read_manifest(trained.artifact)["digest"]),
        family="vae",
        dataset="digits",
        revision="r1",
        protocol={"samples": 1},
        metrics={"distance": Metric(distance, distance - 1, distance + 1, "lower")},
    )
    write_report(evaluation, report)
    registry = Registry(project.settings)
    return registry.register(trained.artifact, evaluation, trained.run_id, trained.tracking_run)


def small(project: Project, seed: int) -> Trained:
    """A training of twenty steps."""
    return train(project, "digits-vae", [*TINY, f"train.seed={seed}"], workers=0)


@pytest.fixture(scope="session")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site that tests copy."""
    root = tmp_path_factory.mktemp("site") / "project"
    shutil.copytree(template, root, symlinks=True)
    (root / "schedule.yaml").write_text("schedules:\n  nightly: {run: digits-vae, every: 1d}\n")
    project = open_project(root)
    version(project, small(project, 1), 10.0)
    promote(project.settings, "digits", project.product("digits"))
    version(project, small(project, 2), 20.0)
    small(project, 3)
    _, secret = keyring(project.settings).create("shop")
    records = project.settings.shared / "records" / "digits"
    records.mkdir(parents=True)
    (records / "2026-11-20.jsonl").write_text(RECORD)
    with pytest.raises(FailedError, match="stopped by request"):
        slowly(lambda: train(project, "digits-vae", SMALL, workers=0, progress=stopping(project)))
    (stopped,) = (
        path.parent for path in project.settings.runs.glob("*/run.json") if '"stopped"' in path.read_text()
    )
    return Site(root, secret, stopped)


def stopping(project: Project) -> Callable[[dict[str, float]], None]:
    """Asks the training to end at its third report."""

    def look(line: dict[str, float]) -> None:
        if line["step"] == 30:
            for path in project.settings.runs.glob("*/run.json"):
                if '"running"' in path.read_text():
                    (path.parent / "stop").touch()

    return look


@pytest.fixture(autouse=True)
def nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow keeps a database open for as long as its process lives; restores have processes of their own."""
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    """A copy of the project, for the test to change."""
    root = tmp_path / "here" / "project"
    shutil.copytree(made.root, root, symlinks=True)
    return Site(root, made.secret, root / ".genloom" / "runs" / made.stopped.name)


@pytest.fixture
def elsewhere(template: Path, tmp_path: Path) -> Path:
    """The project as it comes from git on another machine: nothing was done in it, but its data are prepared."""
    root = tmp_path / "there" / "of another name"
    shutil.copytree(template, root, symlinks=True)
    shutil.rmtree(root / ".genloom", ignore_errors=True)
    return root
