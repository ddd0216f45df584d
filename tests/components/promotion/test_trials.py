"""Canaries and shadows in the ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from components.errors import UserError
from components.project import ProductRow
from components.promotion import ledger
from components.promotion.canary import Criteria, Verdict
from components.promotion.promote import promote, rollback, verify
from components.promotion.registry import Registry
from components.promotion.trials import conclude, start, stop
from components.promotion.version import Version
from components.settings import Settings

ROW = ProductRow(dataset="digits")
CRITERIA = Criteria(share=0.2, requests=50)
WELL, BADLY = Verdict("promote", "It went well."), Verdict("withdraw", "It failed 7 of 9 requests.")


def standing(settings: Settings) -> ledger.Standing:
    return ledger.standing(ledger.read(ledger.path_of(settings, "digits")))


def turn(settings: Settings) -> str:
    trial = standing(settings).trial
    assert trial is not None
    return trial.hash


@pytest.fixture
def three(settings: Settings, register: Callable[..., Version]) -> Settings:
    """The first is champion, the second better, the third worse."""
    for seed, distance in ((1, 10.0), (2, 8.0), (3, 12.0)):
        register(seed, distance)
    promote(settings, "digits", ROW, 1)
    return settings


def test_a_canary_is_a_line_with_its_criteria_and_ends_by_a_promotion(three: Settings) -> None:
    before = ledger.read(ledger.path_of(three, "digits"))
    decision = start(three, "digits", ROW, "canary", CRITERIA, 2, why="a try")
    assert (decision.accepted, decision.version, decision.previous) == (True, 2, 1)
    assert "2 better" in decision.reasons[0]
    trial = standing(three).trial
    assert trial is not None
    assert (trial.event, trial.version, trial.champion, trial.why) == ("canary", 2, 1, "a try")
    assert Criteria(**trial.terms) == CRITERIA  # type: ignore[arg-type]
    assert standing(three).champion == 1
    assert ledger.last_move(ledger.read(ledger.path_of(three, "digits"))) == before[-1].hash
    assert start(three, "digits", ROW, "canary", CRITERIA, 2).accepted, "safe to repeat"
    other = dataclasses.replace(CRITERIA, share=0.45)
    with pytest.raises(
        UserError, match=r"runs already, by other terms \(.*share 0\.2.*genloom canary stop digits"
    ):
        start(three, "digits", ROW, "canary", other, 2)
    assert verify(three, "digits") == 2
    assert conclude(three, "digits", trial.hash, WELL)
    assert (standing(three).champion, standing(three).trial) == (2, None)
    last = ledger.read(ledger.path_of(three, "digits"))[-1]
    assert (last.event, last.champion, last.reasons) == ("promote", 1, ("It went well.",))
    assert Registry(three).version("digits", "champion").number == 2
    assert str(Registry(three).client.get_registered_model("digits").aliases["champion"]) == "2"
    assert verify(three, "digits") == 3


def test_a_withdrawn_version_returns_by_force_only(three: Settings) -> None:
    start(three, "digits", ROW, "canary", CRITERIA, 2)
    assert conclude(three, "digits", turn(three), BADLY)
    found = standing(three)
    assert (found.champion, found.trial, found.withdrawn) == (1, None, {2})
    refused = promote(three, "digits", ROW, 2)
    assert not refused.accepted
    assert "withdrawn when it was tried (It failed 7 of 9 requests)" in refused.reasons[0]
    assert not start(three, "digits", ROW, "canary", CRITERIA, 2).accepted
    assert promote(three, "digits", ROW, 2, force=True).accepted
    assert standing(three).withdrawn == frozenset()


def test_of_several_deciders_one_decides(three: Settings) -> None:
    start(three, "digits", ROW, "canary", CRITERIA, 2)
    now = turn(three)
    with ThreadPoolExecutor(4) as pool:
        decided = list(pool.map(lambda verdict: conclude(three, "digits", now, verdict), [WELL, BADLY] * 4))
    assert decided.count(True) == 1
    assert len(ledger.read(ledger.path_of(three, "digits"))) == 3


def test_a_trial_that_was_stopped_or_overtaken_cannot_be_concluded(three: Settings) -> None:
    start(three, "digits", ROW, "canary", CRITERIA, 2)
    first = turn(three)
    assert stop(three, "digits", "canary", "enough").version == 2
    assert standing(three).withdrawn == frozenset(), "a person who stops it gives no verdict"
    assert not conclude(three, "digits", first, WELL)
    start(three, "digits", ROW, "canary", CRITERIA, 2)
    assert not conclude(three, "digits", first, WELL), "another canary of the same version"
    second = turn(three)
    promote(three, "digits", ROW, 3, force=True)
    assert standing(three).trial is None
    assert not conclude(three, "digits", second, WELL)
    start(three, "digits", ROW, "canary", CRITERIA, 2)
    rollback(three, "digits", to=1)
    assert standing(three).trial is None


def test_the_gate_is_asked_before_a_canary_and_not_before_a_shadow(three: Settings) -> None:
    decision = start(three, "digits", ROW, "canary", CRITERIA)
    assert (decision.version, decision.accepted) == (3, False)
    assert "2 worse" in decision.reasons[0]
    assert standing(three).trial is None
    forced = start(three, "digits", ROW, "canary", CRITERIA, force=True, why="to see it")
    assert forced.accepted
    assert "all the same" in forced.reasons[-1]
    stop(three, "digits", "canary")
    assert start(three, "digits", ROW, "shadow", CRITERIA).accepted
    assert start(three, "digits", ROW, "canary", CRITERIA, force=True, why="it looks well").accepted
    trial = standing(three).trial
    assert trial is not None
    assert (trial.event, trial.version) == ("canary", 3)


def test_what_cannot_be_is_one_sentence(three: Settings, settings: Settings) -> None:
    with pytest.raises(
        UserError, match="No canary of digits runs; start one with genloom canary start digits"
    ):
        stop(three, "digits", "canary")
    with pytest.raises(UserError, match="digits/1 is the champion itself"):
        start(three, "digits", ROW, "shadow", CRITERIA, 1)
    start(three, "digits", ROW, "shadow", CRITERIA, 2)
    with pytest.raises(
        UserError, match="A shadow of digits/2 runs; stop it first with genloom shadow stop digits"
    ):
        start(three, "digits", ROW, "canary", CRITERIA, 3)
    with pytest.raises(UserError, match="No canary of digits runs"):
        stop(three, "digits", "canary")


def test_a_product_without_a_champion_has_no_canary(
    settings: Settings, register: Callable[..., Version]
) -> None:
    register(1)
    with pytest.raises(UserError, match="digits has no champion yet"):
        start(settings, "digits", ROW, "canary", CRITERIA)


def test_lines_from_before_there_were_trials_are_read(three: Settings) -> None:
    path = ledger.path_of(three, "digits")
    assert b"terms" not in path.read_bytes()
    assert [line.terms for line in ledger.read(path)] == [{}]
    start(three, "digits", ROW, "canary", CRITERIA, 2)
    path.write_bytes(path.read_bytes().replace(b'"share":0.2', b'"share":0.9'))
    with pytest.raises(UserError, match=r"Line 2 .* was altered"):
        verify(three, "digits")
