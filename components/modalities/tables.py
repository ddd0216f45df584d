"""Tables of numbers as people write them: CSV with or without a header, an optional column of times, gaps."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count as count_up
from typing import Any, TypeAlias

import numpy as np

from components.errors import UserError, shortened, unknown

Values: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Times: TypeAlias = np.ndarray[Any, np.dtype[np.datetime64]]

MISSING = frozenset({"", "na", "n/a", "nan", "nat", "null", "none", "-", "?"})
"""What stands for a value that is not there, in small letters."""
COUNTERS = frozenset(
    {"", "index", "id", "row", "step", "t", "time", "date", "ds", "timestamp", "year", "unnamed: 0"}
)
"""What a column of whole numbers that only rise is called where it counts rows and measures nothing."""
FORMATS = ("%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%Y-%m", "%m-%d-%Y", "%Y%m%d")
CLOCKS = ("", " %H:%M", " %H:%M:%S")
JUMP = 1.5
"""Times the usual step from which on times are missing between two rows; months differ by less."""


@dataclass(frozen=True)
class Table:
    """Channels by name, float64 [T, C] with NaN where a value is missing, and the time of each row, if it is told.

    `ignored` are columns that hold neither; `missing` counts absent values; `inserted` the rows that were put in for
    times that were left out; `ordered` says that rows had to be sorted by time.
    """

    names: tuple[str, ...]
    values: Values
    times: Times | None = None
    ignored: tuple[str, ...] = ()
    inserted: int = 0
    ordered: bool = False

    @property
    def missing(self) -> int:
        """How many values are missing."""
        return int(np.isnan(self.values).sum())

    def last(self, steps: int) -> Table:
        """The same with the last `steps` rows only."""
        times = None if self.times is None else self.times[-steps:]
        return replace(self, values=self.values[-steps:], times=times)

    def chosen(self, names: Sequence[str], where: str) -> Table:
        """The same with the channels `names` only, in that order. Raises `UserError` for one that is not there."""
        for name in names:
            if name not in self.names:
                raise unknown(f"channel in {where}", name, self.names)
        places = [self.names.index(name) for name in names]
        rest = tuple(name for name in self.names if name not in names)
        return replace(self, names=tuple(names), values=self.values[:, places], ignored=self.ignored + rest)


def read_csv(text: str, where: str, time: str | None = None) -> Table:
    """The table in `text`; `time` names the column of times, which is found by itself where its cells are dates.

    Cells are separated by commas, semicolons, tabs or blanks, whichever the first line has. Raises `UserError`.
    """
    try:
        rows = _cells(text)
    except csv.Error as error:
        raise UserError(f"{where} cannot be read as a table ({error}); mend its quotation marks.") from error
    if not rows:
        raise UserError(f"{where} is empty; write a row of numbers a time step into it.")
    header = any(_number(cell) is None and not _is_missing(cell) for cell in rows[0]) and (
        len(rows) == 1 or not _alike(rows[0], rows[1])
    )
    names = _named([cell.strip() for cell in rows[0]] if header else [], len(rows[0]))
    body = rows[1:] if header else rows
    for number, row in enumerate(body, start=1 + header):
        if len(row) != len(names):
            raise UserError(
                f"{where}, line {number} has {len(row)} cells and the first line has {len(names)}; mend the line."
            )
    if not body:
        raise UserError(f"{where} has a header and no rows; write a row of numbers a time step below it.")
    columns = {name: [row[place] for row in body] for place, name in enumerate(names)}
    return _sorted_out(columns, where, time, 1 + header)


def to_csv(table: Table) -> str:
    """What `read_csv` reads as `table`: its times first, if it has some; an empty cell where a value is missing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    times = [[]] * len(table.values) if table.times is None else [[str(time)] for time in table.times]
    writer.writerow([*([] if table.times is None else ["time"]), *table.names])
    for time, row in zip(times, table.values.tolist(), strict=True):
        writer.writerow([*time, *("" if math.isnan(value) else repr(value) for value in row)])
    return stream.getvalue()


def _cells(text: str) -> list[list[str]]:
    """The cells of every line that is not blank."""
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    if not lines:
        return []
    counts = {mark: lines[0].count(mark) for mark in (";", "\t", ",")}
    mark = max(counts, key=lambda one: counts[one])
    if counts[mark] == 0:
        found = [line.split() for line in lines]
        times = [row for row in found if len(row) == 2 and _clock(row[1])]
        return [[line] for line in lines] if len(times) == len(lines) else found
    return [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO("\n".join(lines)), delimiter=mark)
    ]


def _clock(cell: str) -> bool:
    return re.fullmatch(r"\d\d?:\d\d(:\d\d)?", cell) is not None


def _alike(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first row holds dates and numbers where the second does, so that it is no header."""
    pairs = list(zip(first, second, strict=False))
    return bool(pairs) and all(
        _kind(one) == _kind(other) != "words" or _is_missing(one) for one, other in pairs
    )


def _kind(cell: str) -> str:
    if _number(cell) is not None:
        return "number"
    return "words" if _times_of([cell]) is None else "time"


def _named(found: Sequence[str], count: int) -> list[str]:
    """A name for each of `count` columns, each once."""
    names = list(found) or [f"value{place + 1}" if count > 1 else "value" for place in range(count)]
    taken = set(names)
    seen: Counter[str] = Counter()
    for place, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[place] = next(
                free for turn in count_up(seen[name] - 1) if (free := f"{name}.{turn}") not in taken
            )
            taken.add(names[place])
    return names


def _sorted_out(columns: dict[str, list[str]], where: str, time: str | None, first: int) -> Table:
    """Which columns are channels, which are times and which are neither; their first row is line `first`."""
    if time is not None and time not in columns:
        raise unknown(f"column in {where}", time, list(columns))
    values: dict[str, Values] = {}
    times, ignored = None, []
    for name, cells in columns.items():
        if name == time:
            times = _told(cells, where, name, first)
            continue
        found = _values(cells, where, name, first)
        if found is not None and not counts_rows(name, found):
            values[name] = found
        elif found is None and times is None and time is None and (read := _times_of(cells)) is not None:
            times = read
        else:
            ignored.append(name)
    if not values:
        raise UserError(f"{where} holds no column of numbers; a series is one number or more a time step.")
    return Table(tuple(values), np.stack(list(values.values()), axis=1), times, tuple(ignored))


def _values(cells: Sequence[str], where: str, name: str, first: int) -> Values | None:
    """The numbers of a column, NaN where one is missing; None if most cells are none. Raises `UserError`."""
    found = [_number(cell) for cell in cells]
    wrong = [place for place, (value, cell) in enumerate(zip(found, cells, strict=True)) if value is None]
    wrong = [place for place in wrong if not _is_missing(cells[place])]
    numbers = sum(value is not None for value in found)
    if numbers <= len(wrong):
        return None
    if wrong:
        raise UserError(
            f"{where}, line {wrong[0] + first}: “{shortened(cells[wrong[0]])}” in the column “{shortened(name)}” "
            "is no number; mend it, or leave the cell empty."
        )
    return np.array([math.nan if value is None else value for value in found])


def counts_rows(name: str, values: Values) -> bool:
    """Whether a column of a name such as index only counts: whole numbers in even or rising steps."""
    if name.lower() not in COUNTERS or len(values) < 2 or bool(np.isnan(values).any()):
        return False
    steps = np.diff(values)
    return bool((values == np.round(values)).all() and (steps > 0).all())


def _number(cell: str) -> float | None:
    """The number in a cell, which may have a decimal comma; None if it is none, or not finite."""
    try:
        value = float(cell.replace("_", "x"))
    except ValueError:
        if not re.fullmatch(r"\s*[-+]?\d+,\d+\s*", cell):
            return None
        value = float(cell.replace(",", "."))
    return value if math.isfinite(value) else None


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in MISSING


def _told(cells: Sequence[str], where: str, name: str, first: int) -> Times:
    """The times of the column that is said to hold them. Raises `UserError`."""
    found = _times_of(cells)
    if found is None:
        bad = next((place for place, cell in enumerate(cells) if _times_of([cell]) is None), 0)
        raise UserError(
            f"{where}, line {bad + first}: “{shortened(cells[bad])}” in the column “{name}” is no time such as "
            "2024-01-31 or 2024-01-31 12:00; mend it, or name another column as the time."
        )
    return found


def _times_of(cells: Sequence[str]) -> Times | None:
    """The times that all cells hold in one way of writing, or None."""
    for read in _readings():
        try:
            return np.array([read(cell) for cell in cells], dtype="datetime64[s]")
        except ValueError:
            continue
    return None


def _readings() -> list[Callable[[str], datetime]]:
    """Ways of reading a time: ISO 8601, then others; each raises ValueError for what is none."""

    def iso(cell: str) -> datetime:
        if not re.match(r"\s*\d{4}-\d\d", cell):
            raise ValueError
        found = datetime.fromisoformat(cell.strip())
        return found if found.tzinfo is None else found.astimezone(UTC).replace(tzinfo=None)

    def written(form: str) -> Callable[[str], datetime]:
        return lambda cell: datetime.strptime(cell.strip(), form)

    return [iso, *(written(form + clock) for form in FORMATS for clock in CLOCKS)]


def regular(table: Table, where: str) -> Table:
    """The rows in order of time, with a row of missing values for each step that was left out.

    Days between Friday and Monday are not missing where a series has no weekends. Raises `UserError` for a time that
    comes twice, or so many gaps that there is no step.
    """
    if table.times is None or len(table.times) < 3:
        return table
    order = np.argsort(table.times, kind="stable")
    times, values = table.times[order], table.values[order]
    steps = np.diff(times).astype(np.int64)
    if bool((steps == 0).any()):
        twice = times[int(np.argmin(steps != 0))]
        raise UserError(
            f"{where} has the time {twice} more than once; a series has one row a time step: remove one, or put each "
            "series into a column of its own."
        )
    usual = float(np.median(steps))
    missing = np.where(steps > JUMP * usual, np.round(steps / usual) - 1, 0).astype(np.int64)
    if usual == 86_400:
        days = times.astype("datetime64[D]")
        missing[np.busday_count(days[:-1], days[1:]) == 1] = 0
    if missing.sum() > len(times):
        raise UserError(
            f"{where}: of {len(times) + int(missing.sum())} steps of {usual:g} s only {len(times)} are there; bring "
            "the series to even steps first."
        )
    ordered = bool((np.diff(order) != 1).any())
    return _with_rows(replace(table, times=times, values=values, ordered=ordered), missing)


def _with_rows(table: Table, missing: np.ndarray[Any, np.dtype[np.int64]]) -> Table:
    """`table` with `missing` [T − 1] rows of NaN behind each row."""
    if not missing.any():
        return table
    assert table.times is not None
    places = np.arange(len(table.values)) + np.concatenate([[0], np.cumsum(missing)])
    values = np.full((int(places[-1]) + 1, table.values.shape[1]), math.nan)
    values[places] = table.values
    seconds = np.interp(np.arange(len(values)), places, table.times.astype(np.int64))
    times = np.round(seconds).astype(np.int64).astype("datetime64[s]")
    return replace(table, values=values, times=times, inserted=int(missing.sum()))


def filled(values: Values, most: int) -> tuple[Values, int]:
    """Values [T] with gaps of at most `most` steps between two values interpolated, and how many those were."""
    known = ~np.isnan(values)
    places = np.flatnonzero(known)
    if len(places) == 0 or bool(known.all()):
        return values, 0
    line = np.interp(np.arange(len(values)), places, values[places])
    before = np.searchsorted(places, np.arange(len(values)), side="right") - 1
    after = np.minimum(before + 1, len(places) - 1)
    inside = ~known & (before >= 0) & (np.arange(len(values)) < places[-1])
    short = inside & (places[after] - places[np.maximum(before, 0)] - 1 <= most)
    return np.where(short, line, values), int(short.sum())


def following(times: Times, count: int) -> list[str]:
    """The `count` times behind the last, in ISO 8601, by the usual step: whole months where those are."""
    steps = np.diff(times).astype(np.int64)
    usual = int(np.median(steps)) if len(steps) else 86_400
    months = np.diff(times.astype("datetime64[M]").astype(np.int64))
    last, ahead = times[-1], np.arange(1, count + 1)
    if len(months) and usual >= 28 * 86_400 and bool((months == months[0]).all()):
        day = last - last.astype("datetime64[M]").astype("datetime64[s]")
        found = (last.astype("datetime64[M]") + ahead * months[0]).astype("datetime64[s]") + day
    elif usual == 86_400 and len(times) > 7 and not bool((_weekday(times) >= 5).any()):
        found = np.busday_offset(last.astype("datetime64[D]"), ahead, roll="backward").astype("datetime64[s]")
    else:
        found = last + (ahead * usual).astype("timedelta64[s]")
    days = bool((found == found.astype("datetime64[D]")).all())
    return [str(one.astype("datetime64[D]") if days else one) for one in found]


def _weekday(times: Times) -> np.ndarray[Any, np.dtype[np.int64]]:
    """0 for Monday … 6 for Sunday; 1 January 1970 was a Thursday."""
    return (times.astype("datetime64[D]").astype(np.int64) + 3) % 7
