"""Jobs behind a real server: Ray Data generates, shards are Parquet, and what is interrupted goes on."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.dataset as ds
import pytest

from tests.until import until

OVER = ("done", "failed", "cancelled")


def ordered(url: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/jobs", json=body, timeout=30)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def job(url: str, name: str) -> dict[str, Any]:
    return dict(httpx.get(f"{url}/v1/jobs/{name}", timeout=30).json())


def waited(
    url: str, name: str, holds: Callable[[dict[str, Any]], bool], seconds: float = 120
) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def so() -> bool:
        found.update(job(url, name))
        return holds(found)

    until(so, seconds, lambda: found)
    return found


def over(found: dict[str, Any]) -> bool:
    return found["status"] in OVER


def table(found: dict[str, Any]) -> dict[str, list[Any]]:
    read = ds.dataset(sorted(Path(found["path"]).glob("*.parquet"))).to_table()
    return dict(read.to_pydict())


def test_a_job_writes_what_the_routes_would_answer(url: str) -> None:
    found = waited(url, ordered(url, model="digits", n=300, seed=7)["id"], over)
    assert (found["status"], found["done"], found["error"]) == ("done", 300, None)
    rows = table(found)
    assert rows["seed"] == list(range(7, 307))
    for place in (0, 131, 299):
        answer = httpx.post(f"{url}/v1/generations", json={"model": "digits", "seed": 7 + place}).json()
        assert base64.b64decode(answer["data"][0]["b64"]) == rows["content"][place]


def test_a_job_of_text_has_a_column_of_text(url: str) -> None:
    asked = {"prompt": "Once", "max_tokens": 5}
    found = waited(url, ordered(url, model="tales", n=130, seed=3, request=asked)["id"], over)
    assert found["status"] == "done", found
    rows = table(found)
    assert (len(rows["text"]), rows["seed"][-1]) == (130, 132)
    answer = httpx.post(f"{url}/v1/completions", json={"model": "tales", "seed": 100, **asked}).json()
    assert answer["choices"][0]["text"] == rows["text"][97]


def generators(found: dict[str, Any]) -> list[psutil.Process]:
    """The processes that generate for a job, which write into its folder; Ray names them."""
    named = [
        one for one in psutil.process_iter(["cmdline"]) if "MapWorker" in " ".join(one.info["cmdline"] or [])
    ]
    return [one for one in named if any(file.path.startswith(found["path"]) for file in one.open_files())]


@pytest.mark.long
def test_a_job_whose_process_is_killed_goes_on_and_keeps_its_shards(url: str) -> None:
    found = ordered(url, model="digits", n=100_000, seed=0)
    waited(url, found["id"], lambda one: one["done"] > 0)
    kept = {path: path.stat().st_mtime_ns for path in Path(found["path"]).glob("*.parquet")}
    killed = generators(found)
    for process in killed:
        process.kill()
    assert killed
    found = waited(url, found["id"], over, 300)
    assert found["status"] == "done", found
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert table(found)["seed"] == list(range(100_000))
