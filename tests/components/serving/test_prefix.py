"""An application at /words: routes, limits, keys and metrics are those of one at /."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from components.serving.catalog import Catalog, Served, open_version
from components.serving.keys import Keyring
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.serving.routes.bodies import LARGEST
from components.serving.routes.paths import route_of
from components.settings import Settings

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    return Keyring(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def client(
    artifact: Callable[..., Path], ring: Keyring, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    home = tmp_path_factory.mktemp("prefix")
    loaded = open_version(Served("digits", 1, artifact(home / "artifact"), 0), Settings(home=home))
    app = create_app(Catalog({"digits": loaded}), Access(ring, required=True))
    with TestClient(app, root_path="/words", raise_server_exceptions=False) as client:
        yield client


def test_routes_are_below_the_prefix(client: TestClient, ring: Keyring) -> None:
    key, secret = ring.create("asks")
    bearer = {"authorization": f"Bearer {secret}"}
    assert client.get("/words/health").status_code == 200  # open without a key, as at /
    assert client.get("/words/v1/models").status_code == 401
    assert client.get("/words/v1/models", headers=bearer).json()["data"][0]["id"] == "digits"
    assert client.post(f"/words{DRAW}", json={"seed": 1}, headers=bearer).status_code == 200
    wrong = client.post(f"/words{DRAW}", json={"sede": 1}, headers=bearer).json()["error"]["message"]
    assert "did you mean seed" in wrong
    assert client.get("/words/metrics", headers=bearer).status_code == 403
    described = client.get("/words/openapi.json", headers=bearer).json()
    assert described["servers"] == [{"url": "/words"}]
    assert DRAW in described["paths"]
    ring.revoke(key.id)


def test_limits_and_metrics_know_the_routes(client: TestClient, ring: Keyring) -> None:
    _, secret = ring.create("runs", ["generate", "operate"])
    bearer = {"authorization": f"Bearer {secret}"}
    large = b'{"user": "' + b"a" * LARGEST + b'"}'
    assert client.post(f"/words{DRAW}", content=large, headers=JSON | bearer).status_code == 413
    assert client.post(f"/words{EDIT}", content=large, headers=JSON | bearer).status_code == 400
    text = client.get("/words/metrics", headers=bearer).text
    assert f'route="{DRAW}",status="413"' in text
    assert "/words" not in text


@pytest.mark.parametrize(
    ("path", "prefix", "route"),
    [
        ("/health", "", "/health"),
        ("/words/health", "/words", "/health"),
        ("/words", "/words", ""),
        ("/wordsmith", "/words", "/wordsmith"),
        ("/v1/health", "/words", "/v1/health"),
    ],
)
def test_the_route_of_a_path(path: str, prefix: str, route: str) -> None:
    assert route_of({"path": path, "root_path": prefix}) == route
