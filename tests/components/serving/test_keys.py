"""Keys: made, listed, revoked; who is let in, and how often."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from components.errors import UserError
from components.serving.catalog import Catalog, Served, open_catalog
from components.serving.keys import Keyring
from components.serving.routes.access import Access, Bucket
from components.serving.routes.application import create_app
from components.settings import Settings
from flows.commands import main

DRAW = "/v1/images/generations"


@pytest.fixture
def catalog(artifact: Callable[..., Path], tmp_path: Path) -> Catalog:
    """What the application closes when it ends."""
    folder = artifact(tmp_path / "artifact" / "digits")
    return open_catalog([Served("digits", 3, folder, 0)], Settings(home=folder.parent))


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys.json")


def client_of(catalog: Catalog, ring: Keyring, required: bool = True) -> TestClient:
    return TestClient(create_app(catalog, Access(ring, required)), raise_server_exceptions=False)


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_secret_is_kept_as_a_hash_in_a_file_of_its_owner(ring: Keyring) -> None:
    key, secret = ring.create("shop")
    assert secret.startswith(f"gl-{key.id}-")
    content = ring.path.read_text()
    assert secret not in content
    assert secret.rpartition("-")[2] not in content
    assert stat.S_IMODE(ring.path.stat().st_mode) == 0o600
    assert ring.holder(secret) == key
    assert Keyring(ring.path).holder(secret) == key
    assert ring.holder(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    assert ring.holder("") is None


def test_a_name_is_used_once_at_a_time(ring: Keyring) -> None:
    first, _ = ring.create("shop")
    with pytest.raises(UserError, match="already a key “shop”"):
        ring.create("shop")
    ring.revoke("shop")
    second, secret = ring.create("shop")
    assert second.id != first.id
    assert ring.revoke("shop").id == second.id
    assert ring.holder(secret) is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": ""}, "no good name"),
        ({"name": "a\nb"}, "no good name"),
        ({"name": "a", "scopes": ["opperate"]}, "did you mean operate"),
        ({"name": "a", "rate": 0}, "rate of a key is at least 1"),
        ({"name": "a", "concurrency": -1}, "concurrency of a key is at least 1"),
    ],
)
def test_what_makes_no_key_is_said(ring: Keyring, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ring.create(**asked)
    assert not ring.path.exists()


def test_a_damaged_file_lets_nobody_in(catalog: Catalog, ring: Keyring) -> None:
    _, secret = ring.create("shop")
    ring.path.write_text("[{}]")
    with client_of(catalog, ring) as client:
        answer = client.post(DRAW, json={}, headers=bearer(secret))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "keys_unreadable"


def test_a_thousand_requests_without_wrong_and_with_revoked_keys_get_nothing(
    catalog: Catalog, ring: Keyring
) -> None:
    _, secret = ring.create("shop")
    ring.revoke("shop")
    _, other = ring.create("other")
    wrong = [
        {},
        bearer(secret),
        bearer(other[:-2]),
        bearer("gl-" + "0" * 52),
        {"authorization": other},
        bearer(""),
    ]
    with client_of(catalog, ring) as client:
        before = catalog.loaded["digits"].engine.tally.finished
        statuses = {
            client.post(DRAW, json={}, headers=wrong[turn % len(wrong)]).status_code for turn in range(1000)
        }
        assert statuses == {401}
        assert catalog.loaded["digits"].engine.tally.finished == before
        assert client.post(DRAW, json={}, headers=bearer(other)).status_code == 200


def test_scopes_divide_asking_and_operating(catalog: Catalog, ring: Keyring) -> None:
    _, asks = ring.create("app")
    _, runs = ring.create("monitor", ["operate"])
    with client_of(catalog, ring) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers=bearer(asks)).status_code == 200
        assert client.get("/metrics", headers=bearer(runs)).status_code == 200
        refused = client.get("/metrics", headers=bearer(asks))
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_scope")
        assert client.post(DRAW, json={}, headers=bearer(runs)).status_code == 403


def test_on_loopback_a_key_is_optional_but_a_wrong_one_is_told_once_there_are_any(
    catalog: Catalog, ring: Keyring
) -> None:
    with client_of(catalog, ring, required=False) as client:
        assert client.post(DRAW, json={}, headers=bearer("unused")).status_code == 200
        _, secret = ring.create("shop")
        assert client.post(DRAW, json={}).status_code == 200
        assert client.post(DRAW, json={}, headers=bearer(secret)).status_code == 200
        assert client.post(DRAW, json={}, headers=bearer("unused")).status_code == 401


def test_a_rate_is_kept_and_says_when_to_come_back(catalog: Catalog, ring: Keyring) -> None:
    _, secret = ring.create("shop", rate=2)
    with client_of(catalog, ring) as client:
        answers = [client.post(DRAW, json={}, headers=bearer(secret)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 31


def test_a_bucket_fills_with_time() -> None:
    bucket = Bucket(rate=60, left=1.0, at=0.0)
    assert bucket.take(0.0) == 0
    assert bucket.take(0.0) == pytest.approx(1.0)
    assert bucket.take(1.0) == 0
    assert bucket.take(1000.0) == 0
    assert bucket.left == pytest.approx(59.0)


def test_requests_at_once_are_counted_until_they_end(catalog: Catalog, ring: Keyring) -> None:
    key, secret = ring.create("shop", concurrency=1)
    access = Access(ring, required=True)
    access.running[key.id] = 1
    with TestClient(create_app(catalog, access)) as client:
        refused = client.post(DRAW, json={}, headers=bearer(secret))
        access.running[key.id] = 0
        taken = client.post(DRAW, json={}, headers=bearer(secret))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert (taken.status_code, access.running[key.id]) == (200, 0)


def test_the_command_makes_lists_and_revokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENLOOM_HOME", raising=False)
    assert main.run(["keys", "create", "shop", "--rate", "5", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    ring = Keyring(tmp_path / ".genloom" / "keys.json")
    assert ring.holder(made["key"]) is not None
    assert main.run(["keys", "list", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["rate"], "digest" in listed) == ("shop", 5, False)
    assert main.run(["keys", "revoke", "shop"]) == 0
    assert ring.holder(made["key"]) is None
    assert main.run(["keys", "revoke", "shp"]) == 2


def test_what_nobody_foresaw_counts_as_an_error_of_the_server(
    catalog: Catalog, ring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("components.serving.routes.sides.find", fails)
    with client_of(catalog, ring, required=False) as client:
        assert client.post(DRAW, json={}).status_code == 500
        text = client.get("/metrics").text
    assert f'genloom_requests_total{{model="",route="{DRAW}",status="500",version=""}} 1.0' in text


def test_metrics_count_by_model_version_and_status(catalog: Catalog, ring: Keyring) -> None:
    with client_of(catalog, ring, required=False) as client:
        client.post(DRAW, json={"n": 3})
        client.post(DRAW, json={"n": 0})
        client.get("/nothing/of/the/kind")
        text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    labels = f'model="digits",route="{DRAW}",status="200",version="3"'
    assert lines[f"genloom_requests_total{{{labels}}}"] == "1.0"
    assert lines[f'genloom_requests_total{{model="",route="{DRAW}",status="400",version=""}}'] == "1.0"
    assert lines['genloom_requests_total{model="",route="other",status="404",version=""}'] == "1.0"
    assert float(lines['genloom_rows_finished_total{model="digits",version="3"}']) >= 3
    assert lines['genloom_rows_waiting{model="digits",version="3"}'] == "0.0"
    seconds = f'genloom_request_seconds_count{{model="digits",route="{DRAW}",version="3"}}'
    assert lines[seconds] == "1.0"
