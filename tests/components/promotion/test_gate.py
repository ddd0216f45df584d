import dataclasses
import math

import pytest

from components.evaluation.report import Metric, Report
from components.project import Guard, ProductRow
from components.promotion.gate import decide, primary_metric

PLAIN = ProductRow(dataset="digits")


def report(artifact: str, distance: float, precision: float = 0.8, **changes: object) -> Report:
    found = Report(
        artifact=artifact,
        family="vae",
        dataset="digits",
        revision="r1",
        protocol={"samples": 100},
        metrics={
            "distance": Metric(distance, distance - 1, distance + 1, "lower"),
            "precision": Metric(precision, precision - 0.1, precision + 0.1, "higher"),
        },
    )
    return dataclasses.replace(found, **changes)


def test_the_first_version_is_accepted_and_the_reason_says_so() -> None:
    verdict = decide(report("a", 10.0), None, PLAIN)
    assert verdict.accepted
    assert verdict.primary == "distance"
    assert "no champion yet" in verdict.reasons[0]
    assert "10 [9, 11]" in verdict.reasons[0]


def test_lower_wins_where_lower_is_better_and_the_numbers_are_told() -> None:
    better = decide(report("b", 7.0), report("a", 10.0), PLAIN)
    worse = decide(report("b", 10.5), report("a", 10.0), PLAIN)
    equal = decide(report("b", 10.0), report("a", 10.0), PLAIN)
    assert (better.accepted, worse.accepted, equal.accepted) == (True, False, False)
    assert "7 [6, 8]" in better.reasons[0]
    assert "3 better" in better.reasons[0]
    assert better.reasons[1] == "Their 95% intervals do not overlap."
    assert "0.5 worse" in worse.reasons[0]
    assert worse.reasons[1] == "Their 95% intervals overlap."


def test_higher_wins_where_higher_is_better() -> None:
    product = ProductRow(dataset="digits", primary="precision")
    assert decide(report("b", 99.0, 0.9), report("a", 10.0, 0.8), product).accepted
    assert not decide(report("b", 1.0, 0.7), report("a", 10.0, 0.8), product).accepted


def test_the_gain_must_exceed_what_is_asked() -> None:
    product = ProductRow(dataset="digits", min_gain=2.0)
    assert not decide(report("b", 8.0), report("a", 10.0), product).accepted
    assert decide(report("b", 7.9), report("a", 10.0), product).accepted


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_wins(value: float) -> None:
    assert not decide(report("b", value), report("a", 10.0), PLAIN).accepted
    assert not decide(report("b", value), None, PLAIN).accepted


def test_a_champion_that_is_no_number_does_not_hold_its_place() -> None:
    assert decide(report("b", 10.0), report("a", math.nan), PLAIN).accepted


def test_guards_bind_the_first_and_the_better_one() -> None:
    product = ProductRow(dataset="digits", guards={"precision": Guard(least=0.6, most=0.95)})
    for champion in (None, report("a", 10.0)):
        assert decide(report("b", 7.0, 0.8), champion, product).accepted
        for precision in (0.5, 0.99, math.nan):
            refused = decide(report("b", 7.0, precision), champion, product)
            assert not refused.accepted
            assert "breaks the guard on precision" in refused.reasons[-1]
            assert "at least 0.6 and at most 0.95" in refused.reasons[-1]


def test_reports_of_other_data_or_another_protocol_are_not_compared() -> None:
    other_data = decide(report("b", 1.0), report("a", 10.0, revision="r2"), PLAIN)
    other_way = decide(report("b", 1.0), report("a", 10.0, protocol={"samples": 50}), PLAIN)
    assert not other_data.accepted
    assert "evaluate the champion again" in other_data.reasons[0]
    assert not other_way.accepted
    assert "samples is 100 against 50" in other_way.reasons[0]


def test_a_champion_without_the_primary_metric_is_not_compared() -> None:
    champion = report("a", 10.0, metrics={"precision": Metric(0.8, 0.7, 0.9, "higher")})
    verdict = decide(report("b", 1.0), champion, PLAIN)
    assert not verdict.accepted
    assert "no distance" in verdict.reasons[0]


def test_the_champion_itself_is_refused() -> None:
    verdict = decide(report("a", 1.0), report("a", 10.0), PLAIN)
    assert not verdict.accepted
    assert "already champion" in verdict.reasons[0]


def test_a_report_without_a_metric_that_the_product_names_is_refused() -> None:
    for product in (
        ProductRow(dataset="digits", primary="presision"),
        ProductRow(dataset="digits", guards={"presision": Guard(least=0.1)}),
    ):
        for champion in (report("a", 10.0), None):
            verdict = decide(report("b", 1.0), champion, product)
            assert not verdict.accepted
            assert "lacks it" in verdict.reasons[-1]
            assert "“presision”; did you mean precision?" in verdict.reasons[-1]
        assert primary_metric(report("b", 1.0), product) == "distance", "what a listing shows"
