"""The access log: a line of each request, of whatever came of it, and nothing of what was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from components.serving.access_log import AccessLog, open_access_log
from components.serving.catalog import Catalog, Served, open_catalog
from components.serving.keys import Keyring
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.settings import Settings

DRAW = "/v1/images/generations"


@pytest.fixture
def catalog(artifact: Callable[..., Path], tmp_path: Path) -> Iterator[Catalog]:
    found = open_catalog(
        [Served("digits", 3, artifact(tmp_path / "artifact" / "digits"), 0)], Settings(home=tmp_path)
    )
    yield found
    found.close()


def lines(settings: Settings) -> list[dict[str, Any]]:
    """What was kept, in order; their owner alone reads it."""
    (path,) = (settings.shared / "access").glob("*.jsonl")
    assert path.stat().st_mode & 0o077 == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_request_has_a_line_by_its_key_and_version(catalog: Catalog, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ring = Keyring(tmp_path / "keys.json")
    key, secret = ring.create("shop")
    log = AccessLog(settings)
    app = create_app(catalog, Access(ring, required=True), log=log)
    client = TestClient(app, client=("10.0.0.7", 1), headers={"x-forwarded-for": "1.2.3.4"})
    good = {"authorization": f"Bearer {secret}", "x-request-id": "r-1"}
    secretive = {"model": "digits", "user": "alice", "seed": 5}
    assert client.post(DRAW, json=secretive, headers=good).status_code == 200
    assert client.post(DRAW, json={"n": 0}, headers=good).status_code == 400
    assert client.post(f"{DRAW}?token=hidden", json={}).status_code == 401
    assert client.get("/v1/models/" + "x" * 1000, headers=good).status_code == 404
    assert client.get("/health").status_code == 200
    time = datetime.now(UTC)
    log.close()
    drawn, wrong, refused, unknown, health = lines(settings)
    assert drawn["model"] == "digits/3"
    assert (drawn["method"], drawn["path"], drawn["status"]) == ("POST", DRAW, 200)
    assert (drawn["request"], drawn["key"], drawn["client"]) == ("r-1", key.id, "10.0.0.7")
    assert 0 < drawn["seconds"] < 60
    assert timedelta() <= time - datetime.fromisoformat(drawn["at"]) < timedelta(minutes=5)
    assert (wrong["status"], wrong["model"]) == (400, None)
    assert (refused["status"], refused["key"], refused["path"]) == (401, None, DRAW)
    assert len(unknown["path"]) == 256
    assert (health["path"], health["key"]) == ("/health", None)
    text = json.dumps(lines(settings))
    assert "alice" not in text
    assert "hidden" not in text
    assert secret not in text


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_the_proxy_of_this_machine_says_who_asks(catalog: Catalog, tmp_path: Path, peer: str) -> None:
    settings = Settings(home=tmp_path)
    log = AccessLog(settings)
    client = TestClient(create_app(catalog, log=log), client=(peer, 1))
    client.get("/health", headers={"x-forwarded-for": "203.0.113.9"})
    client.get("/health")
    log.close()
    assert [line["client"] for line in lines(settings)] == ["203.0.113.9", peer]


def test_no_days_no_log(catalog: Catalog, tmp_path: Path) -> None:
    assert open_access_log(Settings(home=tmp_path, access_days=0)) is None


def test_a_name_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    log = AccessLog(settings)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/\udcff",
        "headers": [],
        "state": {"request": "\ud800"},
    }
    log.add(scope, "404", 0.1, "", "")
    log.close()
    assert lines(settings)[0]["path"] == "/\udcff"
