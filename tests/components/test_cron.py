"""Cron expressions: the times are those that Prefect computes, and what is wrong is said."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from prefect._vendor.croniter import croniter

from components.cron import cron_times, local_zone, next_every, read_every, zone_names

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "expression",
    [
        "0 3 * * *",
        "*/15 9-17 * * mon-fri",
        "5,35 */6 1,15 * *",
        "0 0 1 * mon",
        "30 4 29 feb *",
        "0 12 * jan-mar 0",
        "10/20 * * * 7",
    ],
)
def test_the_times_are_those_of_prefect(expression: str) -> None:
    after = datetime(2026, 3, 10, 13, 5)  # clocks change on the 29th, but not where Prefect reckons
    theirs = croniter(expression, after)
    for ours in islice(cron_times(expression, BERLIN, after.replace(tzinfo=BERLIN)), 12):
        assert ours.replace(tzinfo=None) == theirs.get_next(datetime)


@pytest.mark.parametrize(
    ("expression", "cause"),
    [
        ("0 3 * *", "it has 4 fields instead of five"),
        ("0 0 3 * * *", "it has 6 fields instead of five"),
        ("0 25 * * *", "bad hour"),
        ("0 3 * * funday", "bad day-of-week"),
        ("0 5-3 * * *", "bad hour"),
        ("*/0 * * * *", "bad minute"),
        ("@daily", "it has 1 fields"),
        ("0 0 31 feb *", "bad day-of-month"),
    ],
)
def test_what_is_wrong_is_said(expression: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        cron_times(expression, BERLIN, datetime.now(BERLIN))


def test_every_so_often_is_counted_from_a_fixed_midnight() -> None:
    after = datetime(2026, 3, 28, 13, 5, tzinfo=BERLIN)
    assert next_every(read_every("6h"), ZoneInfo("UTC"), after).hour == 18
    assert next_every(read_every("30m"), BERLIN, after) == datetime(2026, 3, 28, 13, 30, tzinfo=BERLIN)
    nights = [after]
    for _ in range(3):
        nights.append(next_every(read_every("1d"), BERLIN, nights[-1]))
    assert [night.hour for night in nights[1:]] == [0, 0, 0], "midnight, although the clocks change"
    with pytest.raises(ValueError, match="30m, 6h or 1d"):
        read_every("often")


def test_a_time_is_after_itself() -> None:
    at_three = datetime(2026, 5, 1, 3, tzinfo=BERLIN)
    assert next(cron_times("0 3 * * *", BERLIN, at_three)) == at_three + timedelta(days=1)


def test_this_machine_has_a_zone() -> None:
    assert local_zone() in zone_names()
