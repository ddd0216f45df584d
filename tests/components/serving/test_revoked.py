"""A replica whose version is withdrawn: it answers with it no more, ends what is under way, and says why."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from components.errors import WithdrawnError
from components.project import ProductRow
from components.promotion.promote import promote, rollback
from components.promotion.registry import Registry
from components.promotion.revocation import standing_of
from components.promotion.version import Version
from components.promotion.withdraw import restore, withdraw
from components.serving import follow, live
from components.serving.catalog import Catalog, Served, open_catalog
from components.serving.follow import Follower
from components.serving.jobs import Job
from components.serving.live import Presence
from components.serving.revoked import Revoker
from components.serving.routes.application import create_app
from components.serving.shards import StoppedError, open_job, write_shard
from components.settings import Settings
from tests.components.serving.conftest import register
from tests.until import until

DRAW = "/v1/images/generations"
ROW, WHY = ProductRow(dataset="digits"), "it repeats a face"


@pytest.fixture(scope="module")
def settings(
    artifact: Callable[..., Path], talker: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A registry with three versions of the digits and one of the tales; the second of the digits is champion."""
    home = tmp_path_factory.mktemp("revoked")
    found = Settings(home=home / "home")
    found.home.mkdir()
    registry = Registry(found)
    for number in (1, 2, 3):
        register(registry, artifact(home / f"artifact-{number}", seed=number), "digits", "vae")
    promote(found, "digits", ROW, 1)
    promote(found, "digits", ROW, 2, force=True)
    register(registry, talker(home / "tales"), "tales", "gpt")
    promote(found, "tales", ROW)
    return found


def of(settings: Settings, number: int, product: str = "digits") -> Version:
    return Registry(settings).version(product, number)


@pytest.fixture(autouse=True)
def as_it_was(settings: Settings) -> Iterator[None]:
    """Every test begins with nothing withdrawn and the second version as champion."""
    yield
    for product, champions in {"digits": (1, 2), "tales": (1,)}.items():
        for number in standing_of(settings, product).revoked:
            restore(settings, of(settings, number, product), "the next test")
        if [number for number, _ in standing_of(settings, product).champions] != [*champions]:
            for number in champions:
                rollback(settings, product, to=number)


def opened(settings: Settings, product: str, number: int, follows: bool) -> Catalog:
    folder = Registry(settings).fetch(of(settings, number, product))
    return open_catalog([Served(product, number, folder, 0, follows=follows)], settings)


@pytest.fixture
def follower(settings: Settings) -> Iterator[Follower]:
    """A replica of the digits that follows the champion, looking by hand."""
    catalog = opened(settings, "digits", 2, follows=True)
    found = Follower(catalog, settings)
    found.look()
    yield found
    found.close()
    catalog.close()


def refused(client: TestClient, **body: Any) -> str:
    """The sentence of an answer that is none because the version was withdrawn."""
    answer = client.post(DRAW, json={"model": "digits", **body})
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["code"] == "model_withdrawn"
    assert error["message"].count(". ") == 0, "one sentence"
    return str(error["message"])


def test_the_champion_before_takes_the_place_of_a_withdrawn_one(
    follower: Follower, settings: Settings
) -> None:
    with TestClient(create_app(follower.catalog)) as client:
        assert client.post(DRAW, json={"seed": 1}).headers["x-genloom-version"] == "2"
        withdraw(settings, of(settings, 2), WHY)
        follower.revoker.look()
        said = refused(client)
        assert "digits/2 was withdrawn on 20" in said
        assert f"({WHY}); digits/1 takes its place, so ask again." in said
        follower.look()
        assert client.post(DRAW, json={"seed": 1}).headers["x-genloom-version"] == "1"
        assert client.get("/health").status_code == 200


def test_a_champion_that_gave_way_just_now_is_back_without_being_loaded(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = follower.catalog.loaded["digits"]
    promote(settings, "digits", ROW, 3, force=True)
    follower.look()
    monkeypatch.setattr(follow, "open_version", lambda *_: pytest.fail("it is there"))
    withdraw(settings, of(settings, 3), WHY)
    follower.look()
    assert follower.catalog.loaded["digits"] is second
    assert second.engine.healthy


def test_without_a_champion_the_replica_stays_and_says_why(follower: Follower, settings: Settings) -> None:
    with TestClient(create_app(follower.catalog)) as client:
        for number in (1, 2):
            withdraw(settings, of(settings, number), WHY)
        follower.look()
        said = refused(client)
        assert "digits/2 was withdrawn" in said
        assert "no champion before it is left" in said
        assert refused(client, model="digits@2") == said
        assert client.post(DRAW, json={}).json()["error"]["message"] == said, "without a name too"
        assert client.get("/v1/models").json()["data"] == []
        assert client.get("/v1/models/digits").status_code == 503
        health = client.get("/health")
        assert health.status_code == 200, "a replica that is replaced for this would be replaced for ever"
        assert health.json()["models"][0]["withdrawn"] == said
        restore(settings, of(settings, 1), "a mistake")
        follower.look()
        assert client.post(DRAW, json={"model": "digits"}).status_code == 503, "nobody has promoted it"
        rollback(settings, "digits", to=1)
        follower.look()
        assert client.post(DRAW, json={"seed": 1}).headers["x-genloom-version"] == "1"


def test_a_server_of_one_version_answers_again_when_it_may(settings: Settings) -> None:
    catalog = opened(settings, "digits", 3, follows=False)
    follower = Follower(catalog, settings)
    with TestClient(create_app(catalog)) as client:
        withdraw(settings, of(settings, 3), WHY)
        follower.look()
        assert "this server is to serve no other" in refused(client)
        restore(settings, of(settings, 3), "a mistake")
        follower.look()
        assert client.post(DRAW, json={"seed": 1}).headers["x-genloom-version"] == "3"
    follower.close()
    catalog.close()


def test_a_picture_under_way_is_not_sent(follower: Follower, settings: Settings) -> None:
    """The step that computes it ends after the withdrawal; an answer that is ready is held back as well."""
    engine, over = follower.catalog.loaded["digits"].engine, threading.Event()
    for network in engine.model.networks.values():
        for part in network.modules():
            part.register_forward_pre_hook(lambda *_: over.wait(30) and None)
    with TestClient(create_app(follower.catalog)) as client, ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(refused, client, n=count) for count in (1, 40)]
        until(lambda: engine.busy and engine.stalled > 0.05 and engine.waiting)
        withdraw(settings, of(settings, 2), WHY)
        follower.revoker.look()
        over.set()
        assert all(WHY in one.result(60) for one in asked)
    until(lambda: not engine.healthy)


def test_a_text_under_way_ends_with_the_reason(settings: Settings) -> None:
    catalog = opened(settings, "tales", 1, follows=True)
    revoker, engine = Revoker(catalog, settings), catalog.loaded["tales"].engine
    for network in engine.model.networks.values():
        network.register_forward_pre_hook(lambda *_: time.sleep(0.01))
        for part in network.modules():
            part.register_forward_pre_hook(lambda *_: time.sleep(0.003))
    with TestClient(create_app(catalog)) as client, ThreadPoolExecutor(1) as pool:
        body = {"model": "tales", "prompt": "Once", "max_tokens": 100, "stream": True}
        warm = engine.tally.steps
        asked = pool.submit(client.post, "/v1/completions", json=body)
        until(lambda: engine.tally.steps > warm + 20)
        withdraw(settings, of(settings, 1, "tales"), WHY)
        revoker.look()
        lines = [line for line in asked.result(60).text.splitlines() if line]
    assert "[DONE]" not in lines[-1]
    error = json.loads(lines[-1].removeprefix("data: "))["error"]
    assert error["code"] == "model_withdrawn"
    assert WHY in error["message"]
    assert len(lines) > 1, "what was sent before was sent"
    catalog.close()


def test_a_busy_follower_does_not_hold_a_withdrawal_up(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows the champions may wait for a lock or a registry for minutes."""
    there = threading.Event()
    follower.start()
    monkeypatch.setattr(follower.trials, "look", lambda: there.wait(60))
    withdraw(settings, of(settings, 2), WHY)
    began = time.monotonic()
    until(lambda: follower.catalog.gone)
    took = time.monotonic() - began
    there.set()
    assert took < 5


def test_what_is_withdrawn_while_it_is_loaded_never_answers(follower: Follower, settings: Settings) -> None:
    other = opened(settings, "digits", 3, follows=True).loaded["digits"]
    withdraw(settings, of(settings, 3), WHY)
    follower.revoker.look()
    with pytest.raises(WithdrawnError, match=WHY):
        follower.catalog.put("digits", other)
    assert follower.catalog.loaded["digits"].served.version == 2
    assert not other.engine.healthy


def test_a_replica_that_starts_later_does_not_open_it(settings: Settings) -> None:
    folder = Registry(settings).fetch(of(settings, 3))
    withdraw(settings, of(settings, 3), WHY)
    tales = Served("tales", 1, Registry(settings).fetch(of(settings, 1, "tales")), 0, follows=True)
    catalog = follow.open_champions([Served("digits", 3, folder, 0), tales], settings)
    assert list(catalog.loaded) == ["tales"], "the other products are served"
    assert catalog.healthy
    with TestClient(create_app(catalog)) as client:
        assert WHY in refused(client)
    catalog.close()


def test_a_job_ends_with_the_reason(settings: Settings, tmp_path: Path) -> None:
    version = of(settings, 3)
    job = Job(
        id="job-0", created=0, key=None, product="digits", version=3, digest=version.digest,
        artifact=Registry(settings).fetch(version), media_type="image/png", n=8, seed=0, request={},
        rows=8, at_once=4, workers=1,
    )  # fmt: skip
    loaded = open_job(job, settings)
    withdraw(settings, version, WHY)

    def stopped() -> bool:
        from components.promotion import revocation

        revocation.check(settings, "digits", 3)
        return False

    with pytest.raises((WithdrawnError, StoppedError), match=WHY):
        write_shard(loaded, job, 0, tmp_path, stopped)
    assert list(tmp_path.iterdir()) == []
    loaded.engine.close()
    with pytest.raises(WithdrawnError, match=WHY):
        open_job(job, settings)


def test_every_replica_says_what_it_answers_with(follower: Follower, settings: Settings) -> None:
    presence = Presence(follower.catalog, settings, "genloom", "replica-1")
    presence.tell()
    [one] = live.read(settings)
    assert (one.product, one.version, one.follows, one.withdrawn) == ("digits", 2, True, None)
    assert live.left(settings, "digits", 2, patience=0.0) == (1, 1)
    for number in (1, 2):
        withdraw(settings, of(settings, number), WHY)
    follower.look()
    presence.tell()
    [one] = live.read(settings)
    assert one.version is None
    assert WHY in str(one.withdrawn)
    assert live.left(settings, "digits", 2, patience=0.0) == (1, 0)
    presence.leave()
    assert live.read(settings) == []
