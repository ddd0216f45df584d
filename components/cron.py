"""Times that come again: cron expressions of five fields, and every so many minutes, hours or days."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import tzlocal
from cronsim import CronSim, CronSimError

FIELDS = "minute, hour, day of the month, month, day of the week"
EVERY = re.compile(r"([1-9]\d{0,4})([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
ANCHOR = datetime(2020, 1, 1)
"""Times that come every so often are counted from this midnight, so they do not move when anything is restarted."""


def cron_times(expression: str, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """The times of `expression` after `after` on the clocks of `zone`. Raises `ValueError` with what is wrong."""
    if (count := len(expression.split())) != 5:  # of six, the first would be seconds
        raise ValueError(f"it has {count} fields instead of five: {FIELDS}")
    try:
        times: Iterator[datetime] = CronSim(expression, after.astimezone(zone))
    except CronSimError as error:
        raise ValueError(f"{str(error).lower()}; the fields are {FIELDS}, such as 0 3 * * mon-fri") from error
    return times


def read_every(text: str) -> timedelta:
    """The time between two times. Raises `ValueError` with what is wrong."""
    read = EVERY.fullmatch(text)
    if read is None:
        raise ValueError("write a number and m, h or d, such as 30m, 6h or 1d")
    return timedelta(**{UNITS[read[2]]: int(read[1])})


def next_every(step: timedelta, zone: ZoneInfo, after: datetime) -> datetime:
    """The first time after `after`; days are of the calendar, so they keep their hour when clocks change."""
    if step % timedelta(days=1):
        anchor = ANCHOR.replace(tzinfo=zone).astimezone(ZoneInfo("UTC"))
        return (anchor + ((after - anchor) // step + 1) * step).astimezone(zone)
    passed = (after.astimezone(zone).replace(tzinfo=None) - ANCHOR) // step
    return (ANCHOR + (passed + 1) * step).replace(tzinfo=zone)


def zone_names() -> set[str]:
    """The names that a timezone may have."""
    return available_timezones()


def local_zone() -> str:
    """The name of this machine's timezone; UTC where it has none that can be named."""
    name = tzlocal.get_localzone_name()
    return name if name in available_timezones() else "UTC"
