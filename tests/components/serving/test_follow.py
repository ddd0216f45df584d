"""Replicas that follow their champion: a swap beside running requests, and back where the new one fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from components.artifact import WEIGHTS
from components.families.family import Requests
from components.project import ProductRow
from components.promotion import ledger
from components.promotion.promote import promote, rollback
from components.promotion.registry import Registry
from components.serving import follow
from components.serving.catalog import Catalog, Loaded, Served, open_catalog
from components.serving.follow import Follower
from components.serving.routes.application import create_app
from components.settings import Settings
from components.terms import Terms
from tests.components.serving.conftest import register
from tests.until import until

DRAW = "/v1/images/generations"
ROW = ProductRow(dataset="digits")


@pytest.fixture(scope="module")
def settings(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry with three versions, the first of which is champion."""
    home = tmp_path_factory.mktemp("follow")
    found = Settings(home=home / "home")
    found.home.mkdir()
    registry = Registry(found)
    for number in (1, 2, 3):
        register(registry, artifact(home / f"artifact-{number}", seed=number), "digits", "vae")
    promote(found, "digits", ROW, 1)
    return found


@pytest.fixture
def follower(settings: Settings) -> Iterator[Follower]:
    """At version 1, looking by hand."""
    if ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion != 1:
        rollback(settings, "digits", to=1)
    registry = Registry(settings)
    folder = registry.fetch(registry.version("digits", 1))
    catalog = open_catalog([Served("digits", 1, folder, 0, follows=True)], settings)
    found = Follower(catalog, settings)
    found.look()
    yield found
    found.close()
    catalog.close()


def version(catalog: Catalog) -> int:
    return catalog.loaded["digits"].served.version


def again(follower: Follower) -> None:
    """Look without waiting for the time of the next try."""
    for course in follower._courses.values():
        course.again = 0.0
    follower.look()


def move(settings: Settings, number: int) -> None:
    assert promote(settings, "digits", ROW, number, force=True).accepted


def test_a_moved_champion_takes_over_and_the_old_one_ends_when_it_is_idle(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = follower.catalog
    old = catalog.loaded["digits"]
    assert version(catalog) == 1
    move(settings, 2)
    follower.look()
    assert version(catalog) == 2
    assert old.engine.submit(Requests(seed=torch.arange(3))).result().shape == (3, 1, 8, 8)
    monkeypatch.setattr(follow, "LINGER", 0.0)
    monkeypatch.setattr(follow, "PROBATION", 0.0)
    follower.look()
    follower.look()
    assert not old.engine.healthy
    assert catalog.healthy


def test_a_pinned_version_stays(follower: Follower, settings: Settings) -> None:
    loaded = follower.catalog.loaded["digits"]
    pinned = open_catalog([Served("digits", 1, loaded.served.folder, 0)], settings)
    other = Follower(pinned, settings)
    move(settings, 3)
    other.look()
    assert version(pinned) == 1
    pinned.close()


def test_a_version_that_cannot_be_loaded_gives_way_here_and_in_the_ledger(
    follower: Follower, settings: Settings, artifact: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    move(settings, 2)

    def broken(served: Served, settings: Settings) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(follow, "open_version", broken)
    follower.look()
    assert ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion == 2, (
        "once is not enough"
    )
    again(follower)
    assert version(follower.catalog) == 1
    lines = ledger.read(ledger.path_of(settings, "digits"))
    assert ledger.standing(lines).champion == 1
    assert (lines[-1].event, lines[-1].version) == ("rollback", 1)
    assert "rolled back by the server: it could not be loaded and warmed: no memory" in lines[-1].why
    count = len(lines)
    again(follower)
    assert len(ledger.read(ledger.path_of(settings, "digits"))) == count
    monkeypatch.undo()
    move(settings, 2)
    again(follower)
    assert version(follower.catalog) == 2, "who forces it again is obeyed"


def test_what_is_no_fault_of_the_version_is_tried_again(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(settings, 2)

    def away(*_: object) -> None:
        raise ConnectionError("the storage is away")

    monkeypatch.setattr(follow, "intact", away)
    for _ in range(4):
        again(follower)
    assert version(follower.catalog) == 1
    assert ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion == 2
    monkeypatch.undo()
    again(follower)
    assert version(follower.catalog) == 2


def test_failures_that_are_not_its_own_leave_a_version_its_second_try(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(settings, 2)

    def fails(*_: object) -> None:
        raise RuntimeError("a passing failure")

    with monkeypatch.context() as away:
        away.setattr(follow, "intact", fails)
        again(follower)
    with monkeypatch.context() as once:
        once.setattr(follow, "open_version", fails)
        again(follower)
    assert ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion == 2
    again(follower)
    assert version(follower.catalog) == 2


def test_a_broken_filter_is_no_fault_of_the_version(
    follower: Follower, settings: Settings, tmp_path: Path
) -> None:
    own = tmp_path / "own.py"
    old = follower.catalog.loaded["digits"]
    follower.catalog.put("digits", replace(old, served=replace(old.served, terms=Terms(code=own))))
    move(settings, 2)
    for _ in range(4):
        again(follower)
    assert version(follower.catalog) == 1
    assert ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion == 2
    own.write_text("def refuse(content, media_type):\n    return None\n")
    again(follower)
    assert version(follower.catalog) == 2


def test_the_follower_outlives_a_look_that_fails(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Semaphore(0)

    def fails() -> None:
        looked.release()
        raise RuntimeError("a trial that nobody foresaw")

    monkeypatch.setattr(follow, "AGAIN", 0.0)
    monkeypatch.setattr(follower.trials, "look", fails)
    follower._thread.start()
    assert looked.acquire(timeout=30)
    assert looked.acquire(timeout=30), "it looks again"


def test_a_rollback_that_cannot_be_written_is_written_later(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    move(settings, 3)

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(follow, "open_version", fails)
    with monkeypatch.context() as patch:
        patch.setattr("components.promotion.promote.rollback", fails)
        for _ in range(3):
            again(follower)
    assert ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion == 3
    again(follower)
    assert ledger.standing(ledger.read(ledger.path_of(settings, "digits"))).champion == 1


def test_an_end_within_the_probation_writes_nothing(follower: Follower, settings: Settings) -> None:
    move(settings, 2)
    follower.start()
    before = len(ledger.read(ledger.path_of(settings, "digits")))
    with TestClient(create_app(follower.catalog, closing=follower.close)):
        assert version(follower.catalog) == 2
    follower.look()
    assert len(ledger.read(ledger.path_of(settings, "digits"))) == before
    assert version(follower.catalog) == 2


def test_a_replica_that_is_replaced_begins_with_the_present_champion(
    follower: Follower, settings: Settings
) -> None:
    move(settings, 3)
    gone = Served("digits", 1, settings.home / "nowhere", 0, follows=True)
    catalog = follow.open_champions([gone], settings)
    assert version(catalog) == 3
    catalog.close()


def test_a_version_that_answers_no_more_gives_way(follower: Follower, settings: Settings) -> None:
    move(settings, 3)
    follower.look()
    catalog = follower.catalog
    assert version(catalog) == 3
    engine = catalog.loaded["digits"].engine
    for network in engine.model.networks.values():
        for part in network.modules():
            part.register_forward_pre_hook(_fail)
    for _ in range(3):
        with pytest.raises(Exception, match="failed while it generated"):
            engine.submit(Requests(seed=torch.arange(2))).result()
    follower.look()
    again(follower)
    assert version(catalog) == 1
    assert catalog.healthy
    assert ledger.read(ledger.path_of(settings, "digits"))[-1].event == "rollback"


def _fail(*_: object) -> None:
    raise RuntimeError("a broken model")


def test_twenty_moves_under_load_fail_no_request(follower: Follower, settings: Settings) -> None:
    """Every answer is whole, of one version, and equal to that version's own picture for the seed."""
    seen: dict[int, set[bytes]] = {}
    follower.start()
    with TestClient(create_app(follower.catalog)) as client, ThreadPoolExecutor(8) as pool:
        over = False

        def ask() -> int:
            count = 0
            while not over:
                answer = client.post(DRAW, json={"seed": 7})
                assert answer.status_code == 200, answer.text
                seen.setdefault(int(answer.headers["x-genloom-version"]), set()).add(
                    answer.json()["data"][0]["b64_json"].encode()
                )
                count += 1
            return count

        asking = [pool.submit(ask) for _ in range(8)]
        for turn in range(20):
            target = 2 + turn % 2
            move(settings, target)
            until(lambda target=target: version(follower.catalog) == target)
        over = True
        counts = [one.result() for one in asking]
    assert sum(counts) > 100
    assert set(seen) == {1, 2, 3}
    assert all(len(pictures) == 1 for pictures in seen.values())


def test_a_damaged_weights_file_is_fetched_again(follower: Follower, settings: Settings) -> None:
    folder = Registry(settings).fetch(Registry(settings).version("digits", 2))
    (folder / WEIGHTS).write_bytes(b"damaged")
    move(settings, 2)
    follower.look()
    assert version(follower.catalog) == 2


def test_a_rollback_is_seen_while_a_version_is_loaded(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, opened, usual = threading.Event(), list[Loaded](), follow.open_version

    def slow(served: Served, settings: Settings) -> Loaded:
        there.wait(30)
        opened.append(usual(served, settings))
        return opened[-1]

    monkeypatch.setattr(follow, "open_version", slow)
    move(settings, 2)
    follower.look(patience=0.0)
    move(settings, 3)
    follower.look(patience=0.0)
    rollback(settings, "digits", to=1)
    follower.look(patience=0.0)
    there.set()
    for _ in range(200):
        follower.look(patience=0.0)
        assert version(follower.catalog) == 1, "what was withdrawn never answers"
        if opened and all(not loaded.engine.healthy for loaded in opened):
            break
        time.sleep(0.05)
    assert opened
    assert not any(loaded.engine.healthy for loaded in opened), "nobody needs them"


def test_a_version_that_never_generates_gives_way(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr("components.serving.catalog.WARMING", 0.2)
    monkeypatch.setattr("components.serving.engine.ENDING", 0.2)
    monkeypatch.setattr("components.families.vae.VAE.advance", lambda *_: over.wait(30))
    move(settings, 2)
    follower.look()
    again(follower)
    over.set()
    assert version(follower.catalog) == 1
    assert "rolled back by the server" in ledger.read(ledger.path_of(settings, "digits"))[-1].why


def test_a_version_that_stands_still_gives_way(
    follower: Follower, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    move(settings, 3)
    follower.look()
    catalog = follower.catalog
    monkeypatch.setattr(follow, "STALLED", 0.1)
    for network in catalog.loaded["digits"].engine.model.networks.values():
        for part in network.modules():
            part.register_forward_pre_hook(lambda *_: over.wait(30) and None)
    catalog.loaded["digits"].engine.submit(Requests(seed=torch.arange(2)))
    until(lambda: catalog.loaded["digits"].engine.stalled > 0.1)
    follower.look()
    again(follower)
    over.set()
    assert version(catalog) == 1
    assert "stood still" in ledger.read(ledger.path_of(settings, "digits"))[-1].why
