"""Times that come again: cron expressions of five fields, and every so many minutes, hours or days."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
FIELDS = {
    "minute": (0, 59, {}),
    "hour": (0, 23, {}),
    "day of the month": (1, 31, {}),
    "month": (1, 12, {name: place + 1 for place, name in enumerate(MONTHS)}),
    "day of the week": (0, 7, {name: place for place, name in enumerate(DAYS)}),
}
"""The fields of an expression in their order: least, most, and the names that may stand for numbers."""
PART = re.compile(r"(?:(?P<all>\*)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?")
EVERY = re.compile(r"([1-9]\d{0,4})([mhd])")
UNITS = {"m": "minutes", "h": "hours", "d": "days"}
AHEAD = 366 * 8 + 2
"""Days in which a time must come: a 29th of February may be eight years away."""
ANCHOR = datetime(2020, 1, 1)
"""Times that come every so often are counted from this midnight, so they do not move when anything is restarted."""


@dataclass(frozen=True)
class Cron:
    """A cron expression, read; where both days are restricted, one that fits is enough, as cron has it."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool

    def on(self, day: date) -> bool:
        """Whether there is a time on `day`."""
        fits = (day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays)
        return day.month in self.months and (any(fits) if self.either else all(fits))

    def times(self, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
        """The times after `after`, the next first, for the coming eight years."""
        first = after.astimezone(zone).date()
        for day in (first + timedelta(days=ahead) for ahead in range(AHEAD)):
            if not self.on(day):
                continue
            for hour in sorted(self.hours):
                for minute in sorted(self.minutes):
                    time = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
                    if time > after:
                        yield time


def read_cron(expression: str) -> Cron:
    """The five fields of `expression`. Raises `ValueError` with what is wrong."""
    words = expression.lower().split()
    if len(words) != len(FIELDS):
        raise ValueError(
            f"it has {len(words)} fields instead of five: minute, hour, day of the month, month, day of the week"
        )
    minutes, hours, days, months, weekdays = (
        _field(name, word) for name, word in zip(FIELDS, words, strict=True)
    )
    either = not words[2].startswith("*") and not words[4].startswith("*")
    cron = Cron(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)
    utc = ZoneInfo("UTC")
    if next(cron.times(utc, datetime.now(utc)), None) is None:
        raise ValueError("there is no such day in any year")
    return cron


def _field(name: str, word: str) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        read = PART.fullmatch(part)
        if read is None:
            raise ValueError(f"the {name} “{part}” cannot be read; write *, 5, 1-5, 1,3 or */15")
        found |= _numbers(name, part, read)
    return frozenset(found)


def _numbers(name: str, part: str, read: re.Match[str]) -> set[int]:
    least, most, _ = FIELDS[name]
    step = int(read["step"] or 1)
    if step == 0:
        raise ValueError(f"the {name} “{part}” has a step of 0")
    if read["all"]:
        return set(range(least, most + 1, step))
    first = _number(name, read["first"])
    last = _number(name, read["last"]) if read["last"] else (most if read["step"] else first)
    if last < first:
        raise ValueError(f"the {name} “{part}” ends before it begins")
    return set(range(first, last + 1, step))


def _number(name: str, text: str) -> int:
    least, most, names = FIELDS[name]
    if text in names:
        return names[text]
    if not text.isdecimal() or not least <= int(text) <= most:
        or_names = f", or {', '.join(names)}" if names else ""
        raise ValueError(f"the {name} is “{text}”; it goes from {least} to {most}{or_names}")
    return int(text)


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
    place = str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    return place if place in available_timezones() else "UTC"
