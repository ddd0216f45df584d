"""A real server whose version is replaced while an answer is under way for longer than Ray Serve waits by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from components import families
from components.project import open_project
from tests.benchmarks.__main__ import a_project
from tests.benchmarks.site import DRAW, SMALL, echo, publish, serving

LASTS = 30.0
"""Seconds of the answer; Ray Serve gives a replica 20 unless it is told otherwise."""
DEPLOY = """
from components.project import open_project
from components.promotion.registry import Registry
from components.serving import server
settings = open_project().settings
server.deploy(settings, "echo", Registry(settings).version("echo", "2"))
"""


@pytest.mark.long
def test_an_answer_of_half_a_minute_survives_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # what `echo` changes for the processes that it starts is undone at the end
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(families, "__path__", [*families.__path__])
    monkeypatch.chdir(a_project(tmp_path))
    where = open_project(tmp_path)
    for seed, pause in ((1, LASTS), (2, 0.0)):
        publish(where, "echo", echo(where, pause), SMALL, seed)
    with serving(where, ["echo"]) as url, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}{DRAW}", json={"seed": 3}, timeout=200)
        time.sleep(1)
        deploying = subprocess.Popen([sys.executable, "-c", DEPLOY], cwd=where.root)
        began, other = time.monotonic(), ""
        while other != "2":
            assert not asked.done(), "the new version answers while the old one is still at work"
            assert time.monotonic() - began < LASTS
            other = str(httpx.get(f"{url}/v1/models").json()["data"][0]["version"])
            time.sleep(0.2)
        answer = asked.result()
        assert (answer.status_code, answer.headers["x-genloom-version"]) == (200, "1")
        assert deploying.wait(60) == 0
