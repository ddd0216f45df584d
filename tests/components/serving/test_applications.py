"""Several applications of one file on a real server over TLS: replicas, rolling out, autoscaling, taking away."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from components import artifact as artifacts
from components.promotion.registry import Registry
from components.serving import server
from components.settings import Settings
from tests.components.serving.conftest import Said, Site, free_port, register
from tests.until import until

DRAW, SPEAK = "/v1/images/generations", "/tales/v1/completions"
FILE = """
applications:
  pictures: {models: {digits: VERSION}, replicas: 2, cpus: 0.1}
  tales:
    models: {tales: champion}
    replicas: {min: 0, max: 2, requests: 1, up: 0, down: 3}
"""
PATIENCE = 180.0
"""Seconds that the slowest machine may take to start or end a replica."""


@dataclass(frozen=True)
class Place:
    """A project whose server speaks TLS: where it is, who vouches for it, and commands in it."""

    root: Path
    url: str
    settings: Settings
    http: httpx.Client
    call: Callable[..., Said]

    def apply(self, version: object = "champion", text: str = FILE) -> Said:
        (self.root / "serve.yaml").write_text(text.replace("VERSION", str(version)), encoding="utf-8")
        return self.call("serve", "--detach")

    def status(self) -> dict[str, Any]:
        said = self.call("serve", "--status", "--json")
        assert said.code == 0, said.err
        return dict(json.loads(said.out))

    def replicas(self) -> dict[str, int]:
        return {one["application"]: one["replicas"] for one in self.status()["applications"]}

    def wait(self, application: str, count: int) -> None:
        until(lambda: self.replicas()[application] == count, PATIENCE, self.replicas)


@pytest.fixture(scope="module")
def place(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A copy of the site, so that its own server is another one; two applications are served."""
    root = tmp_path_factory.mktemp("applications")
    ours = shutil.ignore_patterns("serve", "cluster.json", "ray-token", "keys*")
    shutil.copytree(site.root / ".genloom", root / ".genloom", ignore=ours)
    shutil.copy(site.root / "params.yaml", root)
    authority, port = trustme.CA(), free_port()
    own = authority.issue_cert("127.0.0.1")
    own.private_key_pem.write_to_path(root / "key.pem")
    for part in own.cert_chain_pems:
        part.write_to_path(root / "cert.pem", append=True)
    environment = {
        **os.environ,
        "GENLOOM_TLS_CERT": "cert.pem",
        "GENLOOM_TLS_KEY": "key.pem",
        "GENLOOM_PORT": str(port),
    }

    def call(*arguments: str) -> Said:
        done = subprocess.run(
            [Path(sys.executable).parent / "genloom", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    context = ssl.create_default_context()
    authority.configure_trust(context)
    settings = site.settings.model_copy(update={"home": root / ".genloom"})
    with httpx.Client(verify=context, timeout=PATIENCE) as http:
        found = Place(root, f"https://127.0.0.1:{port}", settings, http, call)
        try:
            said = found.apply()
            assert said.code == 0, said.err
            assert "changed: pictures, tales" in said.out
            yield found
        finally:
            server.stop(settings)


def test_the_applications_answer_over_tls_each_at_its_path(place: Place, tmp_path: Path) -> None:
    drawn = place.http.post(f"{place.url}{DRAW}", json={"seed": 1})
    assert drawn.headers["x-genloom-model"] == "digits"
    said = place.http.post(f"{place.url}{SPEAK}", json={"prompt": "a", "max_tokens": 4})
    assert said.headers["x-genloom-model"] == "tales"
    assert [one["id"] for one in place.http.get(f"{place.url}/v1/models").json()["data"]] == ["digits"]
    described = place.http.get(f"{place.url}/tales/openapi.json").json()
    assert described["servers"] == [{"url": "/tales"}]
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{place.url}/health")
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{place.url.replace('https', 'http')}/health")
    # our own commands believe the server's certificate, and find the application of a product
    assert place.call("jobs", "list", "--json").out.strip() == "[]"
    for product, name in (("digits", "one.png"), ("tales", "one.txt")):
        prompt = ["--prompt", "a", "--max-tokens", "4"] if product == "tales" else []
        asked = place.call("generate", product, *prompt, "-o", str(tmp_path / name))
        assert asked.code == 0, asked.err
        own = place.url + ("/tales" if product == "tales" else "")
        assert f"by the server at {own}" in asked.out + asked.err


def test_status_lists_the_applications(place: Place) -> None:
    status = place.status()
    assert status["url"] == place.url
    pictures, tales = status["applications"]
    assert (pictures["application"], pictures["status"], pictures["cpus"]) == ("pictures", "running", 0.1)
    assert (pictures["replicas"], pictures["wanted"], pictures["models"]) == (2, "2", {"digits": 1})
    assert (tales["url"], tales["wanted"], tales["models"]) == (f"{place.url}/tales", "0 to 2", {"tales": 1})
    assert "digits" in {model["id"] for model in status["models"]}
    assert "digits/1" in place.call("serve", "--status").out


def test_any_replica_tells_the_metrics_of_both(place: Place) -> None:
    def told() -> set[str]:
        text = place.http.get(f"{place.url}/metrics").text
        return set(re.findall(r'genloom_engine_width\{model="digits",replica="([^"]+)"', text))

    until(lambda: len(told()) == 2, PATIENCE)
    seen = told()
    assert all(told() == seen for _ in range(8)), "whichever replica is asked"


def test_a_product_cannot_be_added_beside_the_file(place: Place) -> None:
    said = place.call("serve", "digits", "--version", "2")
    assert said.code == 2
    assert "The application pictures of a serving file has the path /" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.long
def test_another_version_reaches_all_replicas_without_a_failed_request(place: Place) -> None:
    over = threading.Event()

    def watch() -> list[tuple[int, str | None]]:
        seen = []
        while not over.is_set():
            answer = place.http.post(f"{place.url}{DRAW}", json={"seed": 1})
            seen.append((answer.status_code, answer.headers.get("x-genloom-version")))
        return seen

    with ThreadPoolExecutor(4) as pool:
        watchers = [pool.submit(watch) for _ in range(4)]
        said = place.apply(version=2)
        over.set()
    assert said.code == 0, said.err
    assert "changed: pictures" in said.out
    assert "left alone: tales" in said.out
    seen = [one for watcher in watchers for one in watcher.result()]
    assert {status for status, _ in seen} == {200}
    assert {version for _, version in seen} == {"1", "2"}
    assert place.replicas()["pictures"] == 2
    after = {place.http.post(f"{place.url}{DRAW}", json={}).headers["x-genloom-version"] for _ in range(20)}
    assert after == {"2"}


@pytest.mark.long
def test_one_that_does_not_come_up_leaves_what_was_served(
    place: Place, artifact: Callable[..., Path]
) -> None:
    folder = artifact(place.root / "broken", seed=3)
    manifest = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    manifest["hyperparameters"]["latent"] += 1  # whole by its hashes, but the weights do not fit
    manifest["digest"] = artifacts._digest(manifest)
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    registry = Registry(place.settings)
    register(registry, folder, "digits", "vae")
    said = place.apply(version=registry.version("digits", "challenger").number)
    assert said.code == 1
    assert "what was served before stays" in said.err
    assert "The weights do not fit" in said.err
    assert said.err.count("\n") == 1
    assert place.http.post(f"{place.url}{DRAW}", json={}).headers["x-genloom-version"] == "2"
    assert place.replicas()["pictures"] == 2


@pytest.mark.long
def test_a_burst_brings_a_second_replica_and_idleness_ends_both(place: Place) -> None:
    over = threading.Event()
    body = {"prompt": "a", "max_tokens": 100, "n": 64}

    def press() -> set[int]:
        seen = set()
        while not over.is_set():
            seen.add(place.http.post(f"{place.url}{SPEAK}", json=body).status_code)
        return seen

    with ThreadPoolExecutor(4) as pool:
        pressing = [pool.submit(press) for _ in range(4)]
        try:
            place.wait("tales", 2)
        finally:
            over.set()
    assert set.union(*(one.result() for one in pressing)) == {200}
    place.wait("tales", 0)
    assert place.status()["applications"][1]["models"] == {"tales": 1}  # said without starting one
    assert place.replicas()["tales"] == 0
    assert place.http.post(f"{place.url}{SPEAK}", json={"prompt": "a", "max_tokens": 4}).status_code == 200


@pytest.mark.long
def test_what_the_file_does_not_name_is_taken_away(place: Place) -> None:
    said = place.apply(text="applications: {figures: {models: {digits: 2}, replicas: 2, cpus: 0.1}}")
    assert said.code == 0, said.err
    assert "left alone: figures; taken away: tales" in said.out  # the path is what an application is known by
    assert list(place.replicas()) == ["figures"]
    gone = place.http.post(f"{place.url}{SPEAK}", json={"prompt": "a"})
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/json")
    assert place.http.post(f"{place.url}{DRAW}", json={}).headers["x-genloom-version"] == "2"
