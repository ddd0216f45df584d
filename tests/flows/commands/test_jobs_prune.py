"""`genloom jobs prune`, which needs no server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.serving.jobs import JOB, Job, Jobs, State


@pytest.mark.usefixtures("project")
def test_prune_says_what_it_removed(project: Path, genloom: Callable[..., Any]) -> None:
    assert json.loads(genloom("jobs", "prune", "--json").out) == {"removed": []}
    jobs = Jobs(project / ".genloom" / "jobs")
    job = Job(
        id="job-0123456789ab-01234567",
        created=0.0,
        key=None,
        product="digits",
        version=1,
        digest="d",
        artifact=project,
        media_type="image/png",
        n=1,
        seed=0,
        request={},
        rows=128,
        at_once=1,
        workers=1,
    )
    jobs.create(job)
    jobs.keep(job.id, State(status="done", done=1, finished=0.0))
    said = genloom("jobs", "prune", "--days", "1")
    assert said.code == 0
    assert said.out == "Removed with their shards: 1.\n"
    assert not (jobs.folder / job.id / JOB).exists()


@pytest.mark.parametrize("name", ["", "?limit=1", "../models", "a\nb", "job-1"])
@pytest.mark.parametrize("verb", ["show", "cancel"])
def test_what_is_no_id_of_a_job_is_not_asked_for(
    name: str, verb: str, genloom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.commands.jobs._url", lambda *_: "http://127.0.0.1:1")
    said = genloom("jobs", verb, name)
    assert said.code == 2
    assert f"There is no job “{name}”" in said.err
