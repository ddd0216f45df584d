"""Who is let in without a key, and how many processes a job has, as far as the cluster decides it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from components.cluster import Capacity
from components.serving import app, bulk, haproxy
from components.settings import Settings


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The cluster's memory, in which a server's host is kept."""
    kept: dict[str, bytes] = {}

    def put(name: str, value: bytes, overwrite: bool = False, namespace: str = "") -> None:
        if overwrite or name not in kept:
            kept[name] = value

    monkeypatch.setattr(app.internal_kv, "_internal_kv_get", lambda name, namespace: kept.get(name))
    monkeypatch.setattr(app.internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(app.serve, "start", lambda **_: None)
    monkeypatch.setattr(haproxy, "chosen", lambda: False)
    return kept


def opened(monkeypatch: pytest.MonkeyPatch, host: str, running: str | None) -> None:
    """Open the proxy at `host`, where Serve runs already at `running`."""
    client = None if running is None else SimpleNamespace(http_config=SimpleNamespace(host=running))
    monkeypatch.setattr(app, "_get_global_client", lambda **_: client)
    app.open_proxy(host, 8000, Settings(host=host))


def test_keys_are_wanted_by_where_serve_listens_and_not_by_who_deploys(
    monkeypatch: pytest.MonkeyPatch, memory: dict[str, bytes]
) -> None:
    opened(monkeypatch, "127.0.0.1", running="0.0.0.0")
    assert memory[app.HOST] == b"0.0.0.0", "somebody else's Serve lets anybody in"
    opened(monkeypatch, "127.0.0.1", running="0.0.0.0")
    assert memory[app.HOST] == b"0.0.0.0"


def test_a_server_that_is_started_anew_is_known_by_its_new_host(
    monkeypatch: pytest.MonkeyPatch, memory: dict[str, bytes]
) -> None:
    opened(monkeypatch, "127.0.0.1", running=None)
    assert memory[app.HOST] == b"127.0.0.1"
    opened(monkeypatch, "0.0.0.0", running="127.0.0.1")
    assert memory[app.HOST] == b"127.0.0.1", "it goes on where it was started"
    opened(monkeypatch, "0.0.0.0", running=None)
    assert memory[app.HOST] == b"0.0.0.0"


def test_a_job_has_no_more_processes_than_the_cluster_has_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, most in ((8.0, 8), (2.5, 2), (0.5, 1)):
        monkeypatch.setattr(bulk.cluster, "capacity", lambda cpus=cpus: Capacity(cpus=cpus, gpus=0))
        assert bulk.cores() == most
