"""Reading the YAML files that people write: checked whole, and what is wrong said in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from components.errors import UserError, unknown

T = TypeVar("T")
Location: TypeAlias = tuple[int | str, ...]
Beside: TypeAlias = Callable[[Location], Sequence[str]]
"""The names of the fields that an unknown one at a place could have been."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. Raises `UserError`."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, ValueError, RecursionError) as error:  # a date such as 2020-13-45 is a ValueError
        cause = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {cause}.") from error


def validate(kind: type[T], content: Any, where: str, beside: Beside) -> T:
    """`content` as a `kind`; raises `UserError` with the first thing that is wrong in `where`."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        raise UserError(_sentence(error, where, beside)) from error


def _sentence(error: ValidationError, where: str, beside: Beside) -> str:
    """The first of pydantic's findings as one sentence."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"In {where}, {path}: {unknown('field', str(first['loc'][-1]), beside(first['loc']))}"
    if first["type"] == "missing":
        return f"In {where}, the field {path} is missing; add it."
    value = first["input"]
    shown = "" if isinstance(value, dict | list) else f" is {value!r}"
    cause = first["msg"].removeprefix("Value error, ")
    return f"In {where}, {path or 'the content'}{shown}: {cause}."
