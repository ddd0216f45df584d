"""How commands print: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def listing(rows: Sequence[Mapping[str, Any]], as_json: bool, empty: str = "Nothing yet.") -> None:
    """Print rows with the same keys as a table, or as a JSON array; `empty` is said if there are none.

    What cells hold is printed as it is: clients, files and errors have brackets of their own.
    """
    if as_json:
        print(json.dumps(list(rows), indent=2, default=str))
        return
    if not rows:
        print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(rows[0]):  # the first column names the row and stays in one piece
        table.add_column(Text(name), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    Console().print(table)


def facts(content: Mapping[str, Any], as_json: bool) -> None:
    """Print one thing's facts, a line each, or as a JSON object."""
    if as_json:
        print(json.dumps(dict(content), indent=2, default=str))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in content.items():
        table.add_row(Text(name), Text(_cell(value)))
    Console().print(table)


def columns(texts: Mapping[str, Sequence[str]]) -> None:
    """Print texts beside each other, a column for each name; what they hold is printed as it is."""
    table = Table(pad_edge=False, header_style="bold", show_lines=True)
    for name in texts:
        table.add_column(name, overflow="fold", ratio=1)
    for row in zip_longest(*texts.values(), fillvalue=""):
        table.add_row(*(Text(text) for text in row))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "  ".join(f"{name}={_cell(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(inner) for inner in value)
    return str(value)
