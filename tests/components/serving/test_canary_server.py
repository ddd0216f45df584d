"""A canary on a real server with two replicas: by the command line, under load, to its verdict."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from components.promotion import ledger
from components.serving import server
from tests.components.serving.conftest import Site, a_site, free_port, run_at
from tests.until import until

pytestmark = pytest.mark.long
PATIENCE = 180.0
"""Seconds until the verdict; three probes are ten seconds apart."""


@pytest.fixture(scope="module")
def site(artifact: Any, talker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of its own, with the digits on two replicas."""
    made = a_site(tmp_path_factory.mktemp("pair"), artifact, talker)
    said = run_at(made.root, "serve", "digits", "--detach", "--port", str(free_port()), "--replicas", "2")
    assert said.code == 0, said.err
    yield made
    server.stop(made.settings)


class Clients(threading.Thread):
    """Asks without a pause, by many names; `seen` counts status and version of the answers."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.seen, self.over = url, Counter[tuple[int, str]](), threading.Event()

    def run(self) -> None:
        """Ask until it is over."""
        with httpx.Client(timeout=30) as http:
            while not self.over.is_set():
                body = {"model": "digits", "n": 1, "user": f"u{sum(self.seen.values()) % 50}"}
                answer = http.post(f"{self.url}/v1/images/generations", json=body)
                self.seen[answer.status_code, answer.headers.get("x-genloom-version", "")] += 1


def versions(url: str) -> set[int]:
    """What the replicas serve, as many questions see it."""
    return {httpx.get(f"{url}/v1/models").json()["data"][0]["version"] for _ in range(30)}


def test_a_good_canary_is_promoted_by_the_replicas(site: Site) -> None:
    running = server.find(site.settings)
    assert running is not None
    clients = Clients(running.url)
    clients.start()
    options = ("--share", "0.5", "--requests", "60", "--minutes", "0", "--force", "--why", "a trial")
    try:
        said = run_at(site.root, "canary", "start", "digits", "--version", "2", *options)
        assert said.code == 0, said.err
        path = ledger.path_of(site.settings, "digits")
        until(
            lambda: ledger.standing(ledger.read(path)).champion == 2,
            PATIENCE,
            lambda: run_at(site.root, "canary", "status", "digits").out,
        )
        until(lambda: versions(running.url) == {2}, PATIENCE)
    finally:
        clients.over.set()
        clients.join()
    assert {status for status, _ in clients.seen} == {200}
    assert clients.seen[200, "1"] >= 20
    assert clients.seen[200, "2"] >= 60
    last = ledger.read(path)[-1]
    assert last.event == "promote"
    assert "canary" in last.why
    state = json.loads(run_at(site.root, "serve", "--status", "--json").out)
    assert "2" in json.dumps(state)
