"""A request that ends its engine's thread: everybody is told, and the replica says that it is not well."""

from __future__ import annotations

from pathlib import Path

from fastapi.testclient import TestClient

from components.families.family import Shape
from components.serving.catalog import Catalog
from components.serving.routes.application import create_app
from tests.benchmarks.echo import LAST, Echo
from tests.components.serving.painter import served

DRAW = "/v1/images/generations"


def test_an_engine_that_has_ended_refuses_at_once_and_its_replica_is_not_well(tmp_path: Path) -> None:
    catalog = Catalog({"echo": served(tmp_path, "echo", Echo(), Shape(data=(1, 8, 8)))})
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        assert client.post(DRAW, json={"seed": 1}).status_code == 200
        assert catalog.healthy
        last = client.post(DRAW, json={"seed": LAST})
        assert (last.status_code, last.json()["error"]["code"]) == (500, "generation_failed")
        assert "SystemExit: the last request" in last.json()["error"]["message"]
        later = client.post(DRAW, json={"seed": 1})
        assert (later.status_code, later.json()["error"]["code"]) == (503, "engine_ended")
        assert later.headers["retry-after"] == "1"
        assert not catalog.healthy
        assert client.get("/health").status_code == 503
