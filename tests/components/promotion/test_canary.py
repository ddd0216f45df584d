"""The verdict on a canary, on numbers."""

from __future__ import annotations

import math
import random

import pytest

from components.promotion.canary import Criteria, Names, decide
from components.promotion.tally import Sample, Tally, bucket, together

NAMES = Names("digits/1", "digits/2")
CRITERIA = Criteria(requests=100, minutes=1)


def side(
    answered: int = 1000,
    failed: int = 0,
    pace: float = 0.010,
    variety: float = 0.8,
    kind: str = "draw",
    probes: int = 3,
    seed: int = 0,
) -> Tally:
    """Answers around `pace` seconds, whose p95 is twice that."""
    chance = random.Random(seed)
    found = Tally(failed=failed)
    for _ in range(answered):
        found.answer(kind, pace * math.exp(chance.gauss(0, 0.42)))
    for _ in range(probes):
        found.probe([variety + chance.gauss(0, 0.05) for _ in range(8)])
    return found


def test_a_version_like_the_champion_is_promoted_when_it_was_asked_enough() -> None:
    few = decide(CRITERIA, side(), side(99, seed=1), 5.0, NAMES)
    assert (few.what, few.reason) == ("wait", "digits/2 has had 99 of 100 requests.")
    early = decide(CRITERIA, side(), side(100, seed=1), 0.5, NAMES)
    assert (early.what, early.reason) == ("wait", "0.5 of 1 minutes are over.")
    unseen = decide(CRITERIA, side(), side(100, probes=2, seed=1), 5.0, NAMES)
    assert (unseen.what, unseen.reason) == ("wait", "2 of 3 probes of the quality were made.")
    alone = decide(CRITERIA, side(5), side(100, seed=1), 5.0, NAMES)
    assert (alone.what, "5 of the 20 requests" in alone.reason) == ("wait", True)
    verdict = decide(CRITERIA, side(), side(100, seed=1), 5.0, NAMES)
    assert verdict.what == "promote"
    assert "digits/2 failed 0 of 100 requests and digits/1 0 of 1000" in verdict.reason


@pytest.mark.parametrize(
    ("failed", "answered", "what"),
    [(3, 0, "withdraw"), (1, 0, "wait"), (1, 99, "promote"), (5, 95, "withdraw"), (2, 20, "wait")],
)
def test_errors_count_against_those_of_the_champion(failed: int, answered: int, what: str) -> None:
    verdict = decide(CRITERIA, side(1000), side(answered, failed, seed=1), 5.0, NAMES)
    assert verdict.what == what, verdict.reason


def test_errors_that_both_have_are_no_reason() -> None:
    assert decide(CRITERIA, side(900, 100), side(90, 10, seed=1), 5.0, NAMES).what == "promote"
    verdict = decide(CRITERIA, side(995, 5), side(50, 50, seed=1), 5.0, NAMES)
    assert verdict.what == "withdraw"
    assert "failed 50 of 100 requests and digits/1 5 of 1000" in verdict.reason


@pytest.mark.parametrize(("pace", "what"), [(0.008, "promote"), (0.012, "promote"), (0.030, "withdraw")])
def test_a_slower_version_is_withdrawn_and_a_little_slower_one_is_not(pace: float, what: str) -> None:
    verdict = decide(CRITERIA, side(), side(100, pace=pace, seed=1), 5.0, NAMES)
    assert verdict.what == what, verdict.reason


def test_a_slow_tail_is_seen_where_the_median_is_not_slow() -> None:
    slow = side(90, seed=1)
    for _ in range(30):
        slow.answer("draw", 0.5)
    verdict = decide(CRITERIA, side(), slow, 5.0, NAMES)
    assert verdict.what == "withdraw"
    assert "times the p95 of digits/1" in verdict.reason


def test_large_requests_are_compared_with_large_ones_only() -> None:
    champion = together([side(), side(100, pace=0.5, kind="draw many")])
    assert (
        decide(CRITERIA, champion, side(100, pace=0.5, kind="draw many", seed=1), 5.0, NAMES).what
        == "promote"
    )
    assert (
        decide(CRITERIA, champion, side(100, pace=2.0, kind="draw many", seed=1), 5.0, NAMES).what
        == "withdraw"
    )


def test_what_differs_by_less_than_the_floor_is_not_slow() -> None:
    assert decide(CRITERIA, side(pace=0.0005), side(100, pace=0.0015, seed=1), 5.0, NAMES).what == "promote"


def test_a_collapsed_version_is_withdrawn_before_its_requests_are_over() -> None:
    verdict = decide(CRITERIA, side(), side(10, variety=0.1, seed=1), 0.1, NAMES)
    assert verdict.what == "withdraw"
    assert "is much alike" in verdict.reason
    assert decide(CRITERIA, side(), side(100, variety=0.6, seed=1), 5.0, NAMES).what == "promote"
    flat = side(variety=0.0)
    assert decide(CRITERIA, flat, side(100, variety=0.0, seed=1), 5.0, NAMES).what == "promote"


def test_numbers_that_are_not_finite_end_it_at_once() -> None:
    broken = Tally()
    broken.probe(None)
    verdict = decide(CRITERIA, side(), broken, 0.0, NAMES)
    assert verdict.what == "withdraw"
    assert "not finite, in 1 of 1 probes" in verdict.reason


def test_looking_often_seldom_withdraws_a_sound_version() -> None:
    """Two hundred sound canaries, each looked at twenty times: at most one in twenty is lost."""
    lost = 0
    champion = side(1000)
    for seed in range(200):
        chance = random.Random(1000 + seed)
        canary = side(0)
        for turn in range(100):
            if chance.random() < 0.01:
                canary.failed += 1
            canary.answer("draw", 0.010 * math.exp(chance.gauss(0, 0.42)))
            if (
                turn % 5 == 4
                and decide(CRITERIA, together([champion, Tally(failed=10)]), canary, 5.0, NAMES).what
                == "withdraw"
            ):
                lost += 1
                break
    assert lost <= 10


def test_the_sum_of_replicas_is_what_one_would_have_seen() -> None:
    parts = [side(50, 1, seed=seed) for seed in range(4)]
    whole = together(parts)
    assert (whole.answered, whole.failed, whole.probes) == (200, 4, 12)
    assert sum(whole.seconds["draw"].values()) == 200
    assert whole.variety.count == 96
    assert whole.quantile(0.5) == pytest.approx(0.010, rel=0.2)
    assert Tally().quantile(0.5) is None


def test_a_bucket_is_never_far_from_the_latency() -> None:
    for seconds in (0.0002, 0.0123, 1.7, 250.0):
        found = Tally()
        found.answer("draw", seconds)
        assert found.quantile(0.5) == pytest.approx(seconds, rel=0.05)
    assert bucket(0.0) == 0


def test_a_sample_has_mean_and_interval() -> None:
    found = Sample()
    found.add([1.0, 2.0, 3.0, 4.0])
    assert found.mean == 2.5
    assert found.half == pytest.approx(1.96 * 1.29099 / 2, rel=1e-3)
    assert Sample().half == math.inf
