"""`genloom keys`: make, list and revoke the keys with which applications ask the server."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.show import AsJson, listing

if TYPE_CHECKING:
    from components.serving.keys import Key

Name = Annotated[str, typer.Argument(help="Whose key it is, such as shop-frontend.", show_default=False)]
Which = Annotated[str, typer.Argument(help="The key's id or name.", show_default=False)]
Scopes = Annotated[
    list[str] | None, typer.Option("--scope", help="generate (the default) or operate; may be repeated.")
]
Rate = Annotated[int | None, typer.Option(help="Requests a minute at each replica; no limit unless given.")]
Concurrency = Annotated[
    int | None, typer.Option(help="Requests at once at each replica; no limit unless given.")
]


def attach(app: typer.Typer) -> None:
    """Add the noun to `app`."""
    keys = typer.Typer(no_args_is_help=True, help="The keys of applications.")
    keys.command("create")(create)
    keys.command("list")(show)
    keys.command("revoke")(revoke)
    app.add_typer(keys, name="keys")


def create(
    name: Name,
    scope: Scopes = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it; it is shown this once, for only its hash is kept."""
    from components.project import open_project
    from components.serving.keys import writable_keyring

    ring = writable_keyring(open_project().settings)
    key, secret = ring.create(name, scope or ("generate",), rate, concurrency)
    if as_json:
        typer.echo(json.dumps({**key.public(), "key": secret}))
        return
    typer.echo(secret)
    typer.echo(
        f"This is the key “{key.name}”; it is not shown again. Revoke it with genloom keys revoke {key.id}.",
        err=True,
    )


def show(as_json: AsJson = False) -> None:
    """List the keys; what opens with them is not kept."""
    from components.project import open_project
    from components.serving.keys import keyring

    keys = keyring(open_project().settings).keys().values()
    rows = [key.public() if as_json else _line(key) for key in keys]
    listing(rows, as_json, "There are no keys yet; make one with genloom keys create NAME.")


def revoke(which: Which) -> None:
    """End a key; running servers refuse it from the next request on."""
    from components.project import open_project
    from components.serving.keys import writable_keyring

    key = writable_keyring(open_project().settings).revoke(which)
    typer.echo(f"The key “{key.name}” ({key.id}) is revoked.")


def _line(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": ", ".join(key.scopes),
        "rate": key.rate,
        "concurrency": key.concurrency,
        "created": _day(key.created),
        "revoked": None if key.revoked is None else _day(key.revoked),
    }


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
