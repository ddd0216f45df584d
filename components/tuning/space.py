"""What a search looks over: the fields of a family with their ranges, or those that a person names or narrows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import UserError, unknown
from components.families.family import Family

DIGITS = 4
"""Significant digits of a value that is tried: as many as a person copies, and more than a training can tell apart."""
WIDE = 10.0
"""A range given by hand whose ends differ by this factor is searched by its logarithm."""
Settings = Mapping[str, int | float]
"""The values of the fields that are searched; whole numbers stay such, also on disk."""


@dataclass(frozen=True)
class Range:
    """Where one field is searched, both ends included; by its logarithm if `log`, in whole numbers if `whole`."""

    low: float
    high: float
    log: bool
    whole: bool

    def rounded(self, value: float) -> int | float:
        """`value` as it is tried and printed, inside the range."""
        if self.whole:
            return int(min(max(round(value), self.low), self.high))
        short = float(f"{value:.{DIGITS}g}")
        return float(min(max(short, self.low), self.high))

    def __str__(self) -> str:
        how = " by its logarithm" if self.log else ""
        return f"{self.low:g} to {self.high:g}{how}"


Space = Mapping[str, Range]


def space_of(family: Family, over: Sequence[str] = (), fixed: Iterable[str] = ()) -> dict[str, Range]:
    """The ranges of the fields that are searched: those of `over`, else all that the family gives a range.

    `over` holds `lr`, or `lr=1e-4..1e-2`, also several with commas between them; `fixed` are fields that have a
    value by request. Raises `UserError` for what the family does not know or allow, and where nothing is left.
    """
    kind = type(family).__module__.rpartition(".")[2]
    fields = {item.name: item for item in dataclasses.fields(family)}
    asked = [part.strip() for text in over for part in text.split(",") if part.strip()]
    if over and not asked:
        raise UserError("--over names no field; write --over lr,width or --over lr=1e-4..1e-2.")
    if not asked:
        asked = [name for name, item in fields.items() if "low" in item.metadata and name not in set(fixed)]
    if not asked:
        raise UserError(
            f"Nothing is left to search: every field of the family {kind} that has a search range is set; leave out "
            "a --set, or name fields with their ranges, as in --over lr=1e-4..1e-2."
        )
    found: dict[str, Range] = {}
    for text in asked:
        name, equals, ends = text.partition("=")
        name = name.strip().removeprefix("model.")
        if name not in fields:
            raise unknown(f"field of the family {kind}", name, fields)
        if name in found:
            raise UserError(f"--over names {name} twice; leave one out.")
        if name in set(fixed):
            raise UserError(
                f"The field {name} is both set and searched; leave out --set model.{name} or --over."
            )
        found[name] = _range(kind, fields[name], ends if equals else None)
    return found


def _range(kind: str, item: dataclasses.Field[Any], ends: str | None) -> Range:
    """The range of one field: the family's own, or the one between `ends`, such as `1e-4..1e-2`."""
    whole = isinstance(item.default, int) and not isinstance(item.default, bool)
    if not whole and not isinstance(item.default, float):
        raise UserError(
            f"The field {item.name} of the family {kind} is no number, and only numbers are searched."
        )
    if ends is None:
        if "low" not in item.metadata:
            raise UserError(
                f"The family {kind} gives the field {item.name} no search range; give one, as in "
                f"--over {item.name}=LOW..HIGH."
            )
        return Range(item.metadata["low"], item.metadata["high"], item.metadata["log"], whole)
    low, high = _ends(item.name, ends, whole)
    _check_legal(kind, item, low, high)
    log = bool(item.metadata["log"]) if "low" in item.metadata else low > 0 and high / low >= WIDE
    return Range(low, high, log and low > 0, whole)


def _ends(name: str, text: str, whole: bool) -> tuple[float, float]:
    """The two numbers of `LOW..HIGH`; raises `UserError` unless there are two and the first is smaller."""
    low_text, dots, high_text = text.partition("..")
    try:
        low, high = float(low_text), float(high_text)
    except ValueError:
        low = high = math.nan
    if not dots or not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"“{text}” is no range for {name}; write two numbers, as in --over {name}=LOW..HIGH.")
    if low >= high:
        raise UserError(f"The range {text} of {name} is empty; give the smaller number first.")
    if whole and (low != int(low) or high != int(high)):
        raise UserError(f"The field {name} takes whole numbers and the range is {text}; give whole ends.")
    return (int(low), int(high)) if whole else (low, high)


def _check_legal(kind: str, item: dataclasses.Field[Any], low: float, high: float) -> None:
    """Raise `UserError` if the family would refuse a value of the range."""
    least, most = item.metadata.get("least"), item.metadata.get("most")
    if (least is None or low >= least) and (most is None or high <= most):
        return
    allowed = " and ".join(
        [f"at least {least:g}"] * (least is not None) + [f"at most {most:g}"] * (most is not None)
    )
    raise UserError(
        f"The range {low:g}..{high:g} of {item.name} leaves what the family {kind} allows ({allowed}); narrow it."
    )


def rounded(space: Space, settings: Settings) -> dict[str, int | float]:
    """The settings as they are tried and printed."""
    return {name: field.rounded(settings[name]) for name, field in space.items()}


def as_it_is(space: Space, family: Family) -> dict[str, int | float] | None:
    """The settings that the run has now; None if one lies outside of its range."""
    values = {name: float(getattr(family, name)) for name in space}
    inside = all(space[name].low <= value <= space[name].high for name, value in values.items())
    return rounded(space, values) if inside else None


def assignments(settings: Settings) -> list[str]:
    """The settings as `--set` takes them, such as `model.lr=0.001`."""
    return [f"model.{name}={value!r}" for name, value in settings.items()]
