"""Replicas that follow the trials of a ledger, look by look: promoted by themselves, or withdrawn with the reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient

from components.artifact import load, save
from components.project import ProductRow
from components.promotion import ledger
from components.promotion.canary import Criteria
from components.promotion.promote import promote, rollback
from components.promotion.registry import Registry
from components.promotion.trials import start, stop
from components.serving import follow, tallies, trials
from components.serving.catalog import Served, open_catalog
from components.serving.follow import Follower
from components.serving.routes.application import create_app
from components.settings import Settings
from tests.components.serving.conftest import register
from tests.until import until

DRAW = "/v1/images/generations"
ROW = ProductRow(dataset="digits")
CRITERIA = Criteria(share=0.5, requests=10, minutes=0)


@pytest.fixture(scope="module")
def settings(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry with two versions, the first of which is champion, and a third that draws one picture only."""
    home = tmp_path_factory.mktemp("trials")
    found = Settings(home=home / "home")
    found.home.mkdir()
    registry = Registry(found)
    for number in (1, 2):
        register(registry, artifact(home / f"artifact-{number}", seed=number), "digits", "vae")
    sound = load(artifact(home / "sound", seed=3))
    for network in sound.networks.values():
        for weights in network.parameters():
            torch.nn.init.zeros_(weights)
    save(home / "artifact-3", sound.family, sound.networks, sound.shape, sound.about)
    register(registry, home / "artifact-3", "digits", "vae")
    promote(found, "digits", ROW, 1)
    return found


@pytest.fixture
def replica(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Follower]]:
    """Make replicas at version 1, which look by hand and probe at every look."""
    for name in ("EVERY", "PROBE"):
        monkeypatch.setattr(trials, name, 0.0)
    if standing(settings).champion != 1:
        rollback(settings, "digits", to=1)
    elif standing(settings).trial is not None:
        promote(settings, "digits", ROW, 2, force=True)
        rollback(settings, "digits", to=1)
    made = []

    def make() -> Follower:
        registry = Registry(settings)
        folder = registry.fetch(registry.version("digits", 1))
        catalog = open_catalog([Served("digits", 1, folder, 0, follows=True)], settings)
        made.append(Follower(catalog, settings))
        made[-1].look()
        return made[-1]

    yield make
    for one in made:
        one.close()
        one.catalog.close()


def standing(settings: Settings) -> ledger.Standing:
    return ledger.standing(ledger.read(ledger.path_of(settings, "digits")))


def last(settings: Settings) -> ledger.Line:
    return ledger.read(ledger.path_of(settings, "digits"))[-1]


def began(
    settings: Settings,
    follower: Follower,
    version: int,
    kind: trials.Kind = "canary",
    criteria: Criteria = CRITERIA,
) -> None:
    """Start a trial and look until the replica has loaded it."""
    assert start(settings, "digits", ROW, kind, criteria, version, force=True).accepted
    looked_until(follower, lambda: "digits" in follower.catalog.trials)


def looked_until(
    follower: Follower, reached: Callable[[], bool], between: Callable[[], object] = lambda: None
) -> None:
    """Look, and do something between two looks, until something is so."""

    def so() -> bool:
        if not reached():
            between()
            follower.look()
        return reached()

    until(so)


class Crowd:
    """Users that ask in turn and count what they get."""

    def __init__(self, client: TestClient) -> None:
        self.client, self.count, self.versions = client, 0, set[str]()

    def ask(self) -> None:
        self.count += 1
        answer = self.client.post(DRAW, json={"seed": 7, "user": f"user-{self.count}"})
        assert answer.status_code == 200, answer.text
        self.versions.add(answer.headers["x-genloom-version"])


def test_a_canary_that_does_well_is_promoted_and_takes_over_as_it_is(
    replica: Callable[[], Follower], settings: Settings
) -> None:
    first, second = replica(), replica()
    began(settings, first, 2)
    looked_until(second, lambda: "digits" in second.catalog.trials)
    tried = first.catalog.trials["digits"].loaded
    with TestClient(create_app(first.catalog)) as client, TestClient(create_app(second.catalog)) as other:
        crowds = Crowd(client), Crowd(other)

        def ask() -> None:
            for crowd in crowds:
                crowd.ask()
            second.look()

        looked_until(first, lambda: first.catalog.loaded["digits"] is tried, ask)
        assert [crowd.versions for crowd in crowds] == [{"1", "2"}, {"1", "2"}]
        looked_until(second, lambda: second.catalog.loaded["digits"].served.version == 2, crowds[1].ask)
    assert standing(settings).champion == 2
    line = last(settings)
    assert (line.event, line.version, line.champion) == ("promote", 2, 1)
    assert "digits/2 failed 0 of" in line.reasons[0]
    assert line.why == "promoted by the server: its canary went well"
    lines = ledger.read(ledger.path_of(settings, "digits"))
    assert [one.event for one in lines[-2:]] == ["canary", "promote"], "two replicas decided, one wrote"
    assert not first.catalog.trials
    assert not second.catalog.trials


def test_a_failing_canary_is_withdrawn_without_a_failed_request(
    replica: Callable[[], Follower], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = replica()
    began(settings, follower, 2)
    trial = follower.catalog.trials["digits"]
    for network in trial.loaded.model.networks.values():
        for part in network.modules():
            part.register_forward_pre_hook(_fail)
    with TestClient(create_app(follower.catalog)) as client:
        crowd = Crowd(client)
        looked_until(follower, lambda: "digits" not in follower.catalog.trials, crowd.ask)
        crowd.ask()
        assert crowd.versions == {"1"}
        monkeypatch.setattr(trials, "LINGER", 0.0)
        looked_until(follower, lambda: not trial.loaded.engine.healthy)  # it is taken out of memory
        assert follower.catalog.healthy
    line = last(settings)
    assert (line.event, line.version, standing(settings).champion) == ("withdraw", 2, 1)
    assert "The engine of digits/2 kept failing" in line.reasons[0] or "digits/2 failed" in line.reasons[0]
    assert line.why == "withdrawn by the server: its canary went badly"


def _fail(*_: object) -> None:
    raise RuntimeError("a broken model")


@pytest.mark.long
def test_a_slow_canary_is_withdrawn(replica: Callable[[], Follower], settings: Settings) -> None:
    follower = replica()
    began(settings, follower, 2, criteria=Criteria(share=0.5, requests=1000, minutes=0))
    for network in follower.catalog.trials["digits"].loaded.model.networks.values():
        for part in network.modules():
            part.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    with TestClient(create_app(follower.catalog)) as client:
        looked_until(follower, lambda: "digits" not in follower.catalog.trials, Crowd(client).ask)
    line = last(settings)
    assert line.event == "withdraw"
    assert "answers of digits/2 were later than 1.5 times the p50 of digits/1" in line.reasons[0]


def test_a_collapsed_canary_is_withdrawn_though_it_answers(
    replica: Callable[[], Follower], settings: Settings
) -> None:
    follower = replica()
    began(settings, follower, 3)
    looked_until(follower, lambda: "digits" not in follower.catalog.trials)
    line = last(settings)
    assert (line.event, line.version) == ("withdraw", 3)
    assert "What digits/3 generates is much alike: its variety is 0 ± 0" in line.reasons[0]


def test_a_canary_that_cannot_be_loaded_is_withdrawn(
    replica: Callable[[], Follower], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = replica()

    def broken(*_: object) -> None:
        raise RuntimeError("no such layer")

    monkeypatch.setattr(follow, "open_version", broken)
    assert start(settings, "digits", ROW, "canary", CRITERIA, 2, force=True).accepted

    def again() -> None:
        follower.trials._courses["digits"].again = 0.0

    looked_until(follower, lambda: standing(settings).trial is None, again)
    assert last(settings).event == "withdraw"
    assert "could not be loaded and warmed: no such layer" in last(settings).reasons[0]


def test_a_canary_ends_though_its_last_tally_cannot_be_written(
    replica: Callable[[], Follower], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = replica()
    began(settings, follower, 2)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tallies, "write", full)
    follower.trials._end("digits")
    assert "digits" not in follower.catalog.trials
    assert len(follower.trials._leaving) == 1, "it is let go when it is idle for long"


def test_a_stopped_canary_answers_no_more(replica: Callable[[], Follower], settings: Settings) -> None:
    follower = replica()
    began(settings, follower, 2, criteria=Criteria(share=1.0, requests=1000))
    with TestClient(create_app(follower.catalog)) as client:
        crowd = Crowd(client)
        crowd.ask()
        assert crowd.versions == {"2"}
        stop(settings, "digits", "canary")
        follower.look()
        crowd.ask()
        assert crowd.versions == {"1", "2"}
    assert last(settings).event == "stop"
    assert not follower.catalog.trials


def test_a_shadow_is_asked_in_secret_and_its_numbers_are_kept(
    replica: Callable[[], Follower], settings: Settings
) -> None:
    follower = replica()
    began(settings, follower, 2, "shadow", Criteria(share=1.0, requests=5, minutes=0))
    trial = follower.catalog.trials["digits"]
    with TestClient(create_app(follower.catalog)) as client:
        crowd = Crowd(client)
        looked_until(follower, lambda: trial.ours.answered >= 8 and trial.ours.probes >= 3, crowd.ask)
        assert crowd.versions == {"1"}
        follower.look()
    (seen,) = tallies.read(settings, "digits", trial.line.hash)
    assert seen.challenger.answered >= 8
    assert seen.champion.answered >= 8
    assert standing(settings).trial is not None, "a shadow is promoted by nobody"
    stop(settings, "digits", "shadow")
    follower.look()
    assert not follower.catalog.trials
    assert tallies.read(settings, "digits", trial.line.hash)[0].challenger.answered >= 8, "what it saw stays"
