"""`genloom serve`: a product's champion, or another version, behind OpenAI's routes on this machine."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import UserError
from flows.commands.show import AsJson, facts

if TYPE_CHECKING:
    from components.project import Project
    from components.promotion.registry import Version
    from components.settings import Settings
    from components.terms import Terms

Product = Annotated[str | None, typer.Argument(help="A product of params.yaml.", show_default=False)]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="By default GENLOOM_PORT, or 8000.")]
Host = Annotated[str | None, typer.Option(help="By default GENLOOM_HOST, or 127.0.0.1.", show_default=False)]
CHAMPION = "champion"
Which = Annotated[
    str,
    typer.Option("--version", help="champion, and each next one as it comes; or a number, or challenger."),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave the server in the background.")]
Stop = Annotated[bool, typer.Option("--stop", help="End the server in the background.")]
Status = Annotated[bool, typer.Option("--status", help="Say what runs and what it serves.")]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("serve")(serve)


def serve(
    product: Product = None,
    port: Port = None,
    host: Host = None,
    version: Which = CHAMPION,
    detach: Detach = False,
    stop: Stop = False,
    status: Status = False,
    as_json: AsJson = False,
) -> None:
    """Serve a product over HTTP, until Ctrl-C or in the background."""
    from components.project import open_project

    project = open_project()
    if stop:
        _stop(project.settings)
    elif status:
        _status(project.settings, as_json)
    elif product is None:
        raise UserError("Name the product to serve, such as genloom serve digits; or use --status or --stop.")
    else:
        _start(project, product, version, detach, port, host)


def _start(
    project: Project, product: str, which: str, detach: bool, port: int | None, host: str | None
) -> None:
    from components.filtering import open_filter
    from components.serving import server
    from components.serving.keys import keyring
    from components.settings import LOOPBACK

    settings = project.settings
    version, follows = _resolve(project, product, which), which == CHAMPION
    terms = project.terms(product)
    open_filter(terms)  # what is wrong with it is said here, not in a replica's log
    if (host or settings.host) not in LOOPBACK and not any(
        key.revoked is None for key in keyring(settings).keys().values()
    ):
        typer.echo(
            f"On {host or settings.host} nobody is let in without a key, and there are none yet; "
            "make one with genloom keys create NAME.",
            err=True,
        )
    if os.environ.get("RAY_ADDRESS"):
        _say(version, server.deploy(_asked(settings, port, host), product, version, follows, terms))
        return
    if detach or server.find(settings) is not None:
        _background(settings, product, version, follows, terms, port, host)
    else:
        _foreground(_asked(settings, port, host), product, version, follows, terms)


def _background(
    settings: Settings,
    product: str,
    version: Version,
    follows: bool,
    terms: Terms,
    port: int | None,
    host: str | None,
) -> None:
    from components.serving import server

    before = server.find(settings)
    server.start_detached(settings, port, host)
    try:
        url = server.deploy(settings, product, version, follows, terms)
    except BaseException:
        if before is None:
            server.stop(settings)
        raise
    _say(version, url)
    typer.echo("It runs in the background; end it with genloom serve --stop.")


def _foreground(settings: Settings, product: str, version: Version, follows: bool, terms: Terms) -> None:
    from components.serving import server

    typer.echo(f"Starting Ray and {version.name} …")
    with server.hosting(settings, settings.host, settings.port):
        _say(version, server.deploy(settings, product, version, follows, terms))
        typer.echo("End it with Ctrl-C.")
        server.wait_for_signal()


def _asked(settings: Settings, port: int | None, host: str | None) -> Settings:
    return settings.model_copy(update={"port": port or settings.port, "host": host or settings.host})


def _resolve(project: Project, product: str, which: str) -> Version:
    """The immutable version that everything from here on is about; `UserError` if there is none."""
    project.product(product)
    from components.promotion.registry import Registry

    registry = Registry(project.settings)
    if product not in registry.products():
        runs = [name for name, row in project.tables.runs.items() if row.product == product]
        raise UserError(
            f"The product {product} has no version yet; make one with genloom retrain "
            f"{runs[0] if runs else 'RUN, once params.yaml has a run of it'}."
        )
    return registry.version(product, which)


def _say(version: Version, url: str) -> None:
    typer.echo(f"{version.name} ({version.family}) is served at {url}; try")
    typer.echo(f"  curl {url}/v1/models")
    for line in _lines(version.product, url):
        typer.echo(f"  {line}")


def _lines(product: str, url: str) -> list[str]:
    """What to try on a product, by what the server says of it."""
    from components.serving import client

    about = client.served(url, product) or {}
    routes = about.get("routes", [])
    if routes == ["/v1/images/edits"]:
        mask = " --mask MASK.png" if about["source"]["kind"] == "mask" else ""
        return [f"genloom edit {product} PICTURE.png{mask} -o out.png"]
    if "/v1/completions" not in routes:
        label = f" --label {shlex.quote(about['classes'][0])}" if about.get("classes") else ""
        prompt = ' --prompt "…"' if about.get("task") == "prompt" else ""
        return [f"genloom generate {product}{label}{prompt} -n 16 -o out.png"]
    chats = "/v1/chat/completions" in routes
    route = "/v1/chat/completions" if chats else "/v1/completions"
    message = '"messages": [{"role": "user", "content": "Hello"}]'
    asked = message if chats else '"prompt": "Once", "max_tokens": 64'
    return [
        f"""curl -N {url}{route} -H 'content-type: application/json' """
        f"""-d '{{"model": "{product}", {asked}, "stream": true}}'""",
        f"genloom chat {product}" if chats else f'genloom generate {product} --prompt "Once"',
    ]


def _stop(settings: Settings) -> None:
    from components.serving import server

    if os.environ.get("RAY_ADDRESS"):
        server.withdraw(settings)
        typer.echo("Nothing of this project is served on the cluster now.")
        return
    stopped = server.stop(settings)
    typer.echo("No server runs." if stopped is None else f"The server at {stopped.url} has ended.")


def _status(settings: Settings, as_json: bool) -> None:
    from components.serving import client, server

    running = server.find(settings)
    content: dict[str, object] = {"running": running is not None}
    if running is not None:
        content |= {"url": running.url, "pid": running.pid, "log": str(server.log_of(settings))}
        served = client.models(running.url)
        content["models"] = (
            served if as_json else [f"{one['id']}/{one['version']} ({one['family']})" for one in served]
        )
    facts(content, as_json)
