"""Any replica answers for all: numbers meet in a folder, and those of replicas that have ended go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from components.serving import exposition
from components.serving.catalog import Catalog
from components.serving.exposition import Member
from components.serving.jobs import Jobs
from components.serving.metrics import Metrics
from components.serving.routes.application import create_app
from tests.until import until

ASKED = "genloom_requests_total"


def client_of(folder: Path, name: str) -> TestClient:
    return TestClient(create_app(Catalog({}), member=Member(folder, name)), raise_server_exceptions=False)


def asked(client: TestClient) -> dict[str, float]:
    """How many requests to /health each replica has counted, by what `client` says."""
    families = {one.name: one for one in text_string_to_metric_families(client.get("/metrics").text)}
    samples = families[ASKED.removesuffix("_total")].samples
    return {
        one.labels["replica"]: one.value
        for one in samples
        if one.name == ASKED and one.labels["route"] == "/health"
    }


def test_any_replica_answers_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "PERIOD", 0.1)
    folder = tmp_path / "metrics"
    with client_of(folder, "one") as one:
        with client_of(folder, "two") as two:
            for client, times in ((one, 1), (two, 3)):
                for _ in range(times):
                    client.get("/health")
            assert asked(two)["two"] == 3.0, "its own numbers are those of this moment"
            until(lambda: asked(one) == {"one": 1.0, "two": 3.0})
            until(lambda: asked(two) == {"one": 1.0, "two": 3.0})
            text = one.get("/metrics").text
            assert text.count(f"# TYPE {ASKED} ") == 1, "series of one family stand together"
            assert text.count('le="+Inf",model="",replica="two",route="/health"') == 2
        assert asked(one) == {"one": 1.0}, "what has ended took its numbers with it"
        assert [path.name for path in folder.iterdir()] == ["one.json"]
    assert not folder.exists()


def test_the_numbers_of_killed_and_of_other_replicas_harm_nothing(tmp_path: Path) -> None:
    member = Member(tmp_path, "one")
    with client_of(tmp_path, "one") as client:
        client.get("/health")
        until(member.file.exists)
        for name, content in {"killed": "[]", "half": "[[", "later": '[{"name": 1}]', "odd": "5"}.items():
            (tmp_path / f"{name}.json").write_text(content)
        os.utime(tmp_path / "killed.json", (0, time.time() - exposition.STALE - 5))
        assert asked(client) == {"one": 1.0}
        assert not (tmp_path / "killed.json").exists()
        assert (tmp_path / "odd.json").exists()


def test_jobs_are_told_once_and_as_they_are_now(tmp_path: Path) -> None:
    counts = {"running": 1}

    class Counted(Jobs):
        def counts(self) -> dict[str, int]:  # type: ignore[override]
            return counts

    apps = [
        create_app(Catalog({}), jobs=Counted(tmp_path / "jobs"), member=Member(tmp_path / "metrics", name))
        for name in ("one", "two")
    ]
    with TestClient(apps[0]) as one, TestClient(apps[1]) as two:
        assert 'genloom_jobs{status="running"} 1.0' in two.get("/metrics").text
        counts["running"] = 0
        until(Member(tmp_path / "metrics", "two").file.exists)
        told = [line for line in one.get("/metrics").text.splitlines() if line.startswith("genloom_jobs")]
        assert told == ['genloom_jobs{status="running"} 0.0']


def test_numbers_that_cannot_be_read_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed: list[bool] = []
    member = Member(tmp_path, "one")
    monkeypatch.setattr(exposition, "PERIOD", 0.1)
    monkeypatch.setattr(Metrics, "families", lambda _: {}["none"])
    with TestClient(create_app(Catalog({}), closing=lambda: closed.append(True), member=member)):
        until(lambda: "could not be left" in caplog.text)
        monkeypatch.undo()
        until(member.file.exists)
    assert closed == [True]


def test_a_replica_whose_folder_cannot_be_written_tells_of_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with client_of(tmp_path / "file" / "below", "one") as client:
        client.get("/health")
        assert asked(client) == {"one": 1.0}
    assert "the other replicas do not see this one's metrics" in caplog.text
