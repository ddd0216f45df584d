"""`genloom records`: what servers kept of the requests they answered; list it, make one again."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from components.errors import FailedError, UserError
from flows.commands.show import AsJson, facts, listing

Product = Annotated[str, typer.Argument(help="A product of params.yaml.", show_default=False)]
Request = Annotated[str, typer.Argument(help="The x-request-id of an answer.", show_default=False)]
Number = Annotated[int, typer.Option("-n", min=1, help="How many, the newest first.")]
Body = Annotated[
    Path | None,
    typer.Option(help="The JSON that was sent, where the record holds only its hash.", show_default=False),
]


def attach(app: typer.Typer) -> None:
    """Add the noun to `app`."""
    records = typer.Typer(no_args_is_help=True, help="What servers kept of the requests they answered.")
    records.command("list")(show)
    records.command("replay")(replay)
    app.add_typer(records, name="records")


def show(product: Product, number: Number = 20, as_json: AsJson = False) -> None:
    """List the newest records of a product."""
    from components.project import open_project
    from components.serving.records import folder_of, read

    project = open_project()
    row = project.product(product)
    found = list(itertools.islice(read(folder_of(project.settings, product)), number))
    rows = [asdict(record) if as_json else _line(asdict(record)) for record in found]
    listing(rows, as_json, f"No request to {product} is on record; its records are “{row.records}”.")


def replay(product: Product, request: Request, body: Body = None, as_json: AsJson = False) -> None:
    """Generate a recorded answer again and compare; exit code 1 if the content is another."""
    from components.project import open_project
    from components.serving.records import find
    from components.serving.replay import replay as again

    project = open_project()
    terms = project.terms(product)
    record = find(project.settings, product, request)
    found = again(project.settings, record, terms, None if body is None else _read(body))
    content = {"request": request, "version": f"{product}/{record.version}", "same": found.same}
    facts({**content, "recorded": record.content, "content": found.content}, as_json)
    if not found.same:
        raise FailedError(
            f"{product}/{record.version} gives other content now; another kind of device or of processor computes "
            "other bits, and so may another release of torch; a content filter that was changed ends texts elsewhere."
        )


def _line(record: dict[str, Any]) -> dict[str, Any]:
    """What a person looks for first."""
    names = ("request", "at", "route", "version", "seed", "rows", "outcome", "seconds", "key")
    return {name: record[name] for name in names}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); name the body that was sent.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; name the body that was sent.")
    return content
