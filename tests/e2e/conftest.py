"""Whole commands in processes of their own, as people run them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.processes import Command, line, processes_of


@pytest.fixture
def command(project: Path) -> Command:
    """Run `genloom …` in the project, wait, and return what it said; it must not leave a process behind."""

    def call(
        *arguments: str, env: Mapping[str, str] | None = None, timeout: float = 400
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line(*arguments),
            cwd=project,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    return call


@pytest.fixture
def no_process_left(project: Path) -> Iterator[None]:
    """Whatever was started in the project has ended by the end of the test."""
    yield
    assert processes_of(project) == []
