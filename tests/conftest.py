"""What the tests share: a project on disk, prepared digits, one Ray and one Prefect server for the whole run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.settings import quiet_environment

quiet_environment()
# in the background Ctrl-C is ignored, and so it would be by the commands that tests start and stop
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
ROOT = Path(__file__).resolve().parent.parent
ONE_AFTER_THE_OTHER = frozenset(
    {
        "components/serving/test_applications.py",
        "components/serving/test_bulk.py",
        "components/serving/test_canary_server.py",
        "components/serving/test_gpus.py",
        "components/serving/test_haproxy.py",
        "components/serving/test_openai.py",
        "components/serving/test_pictures.py",
        "components/serving/test_revoked_server.py",
        "components/serving/test_roll_over.py",
        "components/serving/test_server.py",
        "components/tuning/test_sweep.py",
        "e2e/test_chain.py",
        "e2e/test_tune.py",
        "flows/test_retrain.py",
        "flows/test_schedule.py",
        "flows/test_tune.py",
        "test_notebook.py",
    }
)
"""The files whose tests start Ray, Prefect or a proxy: they wait more than they compute, and may want one port."""


def file_of(nodeid: str) -> str:
    """The file of a test, as `ONE_AFTER_THE_OTHER` names it."""
    return nodeid.partition("::")[0].removeprefix("tests/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, those with servers come first, because they last longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: file_of(item.nodeid) not in ONE_AFTER_THE_OTHER)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process has all tests with servers; the others stay together by file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return "servers" if file in ONE_AFTER_THE_OTHER else file

    config.option.loadscopereorder = False  # ours is the order
    return ByFile(config, log)


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the caller's own GENLOOM_* variables."""
    for name in list(os.environ):
        if name.startswith("GENLOOM_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh project with its own DVC workspace; the digits and some code are prepared by their DVC stages."""
    root = tmp_path_factory.mktemp("template") / "project"
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    params = (root / "params.yaml").read_text(encoding="utf-8")
    few = "source: stdlib\n    limit: 300\n"  # of 15,000 functions
    params = params.replace("source: stdlib\n", few, 1).replace("vocabulary: 4096", "vocabulary: 512", 1)
    (root / "params.yaml").write_text(params, encoding="utf-8")
    shutil.copytree(ROOT / "components", root / "components", ignore=shutil.ignore_patterns("__pycache__"))
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=root, check=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        [*dvc, "repro", "-q", "prepare-digits", "prepare-code"],
        cwd=root,
        check=True,
        env={**os.environ, "PATH": path},
    )
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the test's own, current folder included; its state lives in its `.genloom`."""
    root = tmp_path / "project"
    shutil.copytree(template, root, symlinks=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def genloom(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run `genloom …` in this process and return its exit code and what it printed."""
    from flows.commands.main import run

    def call(*arguments: str | Path) -> Said:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One Prefect server for all flows of the test session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness():
        yield
