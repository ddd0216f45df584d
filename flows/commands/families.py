"""`genloom families`: what can be trained, and each one's hyperparameters."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from flows.commands.show import AsJson, listing


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("families")(list_families)


def list_families(
    name: Annotated[str | None, typer.Argument(help="Show the hyperparameters of one family.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the families, or the hyperparameters of one with their search and legal ranges."""
    from components.errors import unknown
    from components.families.family import kind_of, names

    if name is None:
        listing([_family(family, kind_of(family)) for family in names()], as_json)
        return
    if name not in names():
        raise unknown("family", name, names())
    listing([_field(item) for item in dataclasses.fields(kind_of(name))], as_json)


def _family(name: str, kind: Any) -> dict[str, Any]:
    return {
        "family": name,
        "kinds": sorted(kind.kinds),
        "tasks": sorted(kind.tasks),
        "source": (kind.__doc__ or "").strip().splitlines()[0],
    }


def _field(item: dataclasses.Field[Any]) -> dict[str, Any]:
    facts = item.metadata
    searched = (
        f"{facts['low']:g} … {facts['high']:g}{' (log)' if facts['log'] else ''}" if "low" in facts else None
    )
    return {
        "field": f"model.{item.name}",
        "default": item.default,
        "searched": searched,
        "least": facts.get("least"),
        "most": facts.get("most"),
    }
