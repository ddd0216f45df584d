"""docs/commands.md: what `--help` says of every verb, on one page."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click

from flows.commands.main import application


def page() -> str:
    """The page in Markdown, as `make commands` writes it."""
    command = typer.main.get_command(application())
    return get_docs_for_click(obj=command, ctx=typer.Context(command), name="genloom").rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
