"""`genloom serve`: a product's champion, or the applications of a file, behind OpenAI's routes on this machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import UserError
from flows.commands.show import AsJson, facts, listing

if TYPE_CHECKING:
    from components.project import Project
    from components.promotion.version import Version
    from components.settings import Settings

Product = Annotated[str | None, typer.Argument(help="A product of params.yaml.", show_default=False)]
File = Annotated[
    Path | None,
    typer.Option("--file", help="The applications to serve; by default serve.yaml.", show_default=False),
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="By default GENLOOM_PORT, or 8000.")]
Host = Annotated[str | None, typer.Option(help="By default GENLOOM_HOST, or 127.0.0.1.", show_default=False)]
CHAMPION = "champion"
Which = Annotated[
    str,
    typer.Option("--version", help="champion, and each next one as it comes; or a number, or challenger."),
]
Replicas = Annotated[
    int | None,
    typer.Option(
        "--replicas", min=1, max=1000, help="How many replicas; by default one.", show_default=False
    ),
]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus",
        min=0,
        help="GPUs of each replica, or a part of one such as 0.5; by default none.",
        show_default=False,
    ),
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave the server in the background.")]
Stop = Annotated[bool, typer.Option("--stop", help="End the server in the background.")]
Status = Annotated[bool, typer.Option("--status", help="Say what runs and what it serves.")]


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("serve")(serve)


def serve(
    product: Product = None,
    file: File = None,
    port: Port = None,
    host: Host = None,
    version: Which = CHAMPION,
    replicas: Replicas = None,
    gpus: Gpus = None,
    detach: Detach = False,
    stop: Stop = False,
    status: Status = False,
    as_json: AsJson = False,
) -> None:
    """Serve a product over HTTP, or the applications of serve.yaml, until Ctrl-C or in the background."""
    from components.project import open_project

    project = open_project()
    place = project.settings.model_copy(
        update={"port": port or project.settings.port, "host": host or project.settings.host}
    )
    if stop:
        _stop(project.settings)
    elif status:
        _status(project.settings, as_json)
    elif product is not None:
        if file is not None:
            raise UserError(f"Name the product {product} or the file {file}, one of the two.")
        _start(place, _product(project, product, version, replicas, gpus), detach, port, host)
    else:
        _start(place, _declared(project, file, version, replicas, gpus), detach, port, host)


@dataclass(frozen=True)
class Wish:
    """What is to be served: its name, how it is brought onto a server that runs, and what is said then."""

    name: str
    put: Callable[[Settings], str]


def _product(project: Project, product: str, which: str, replicas: int | None, gpus: float | None) -> Wish:
    from components.filtering import open_filter
    from components.labels import marker
    from components.serving import declared

    declared.check_product(product, replicas, gpus)
    version, terms = _resolve(project, product, which), project.terms(product)
    open_filter(terms)  # what is wrong with it is said here, not in a replica's log
    marker.check(product, terms, project.settings)

    def put(settings: Settings) -> str:
        from components.serving import server

        url = server.deploy(settings, product, version, which == CHAMPION, replicas, terms, gpus)
        return "\n".join(_said(version, url))

    return Wish(version.name, put)


def _declared(
    project: Project, file: Path | None, which: str, replicas: int | None, gpus: float | None
) -> Wish:
    """The applications of a file, by default serve.yaml, checked now so that what is wrong starts nothing."""
    from components import cluster
    from components.filtering import open_filter
    from components.labels import marker
    from components.serving import declared, deployment

    path = file or project.root / declared.FILE
    if file is None and not path.is_file():
        raise UserError(
            "Name the product to serve, such as genloom serve digits; or write serve.yaml; or use --status or --stop."
        )
    if (which, replicas, gpus) != (CHAMPION, None, None):
        raise UserError(
            f"With {path}, versions, replicas and gpus stand in the file; leave --version, --replicas and --gpus out."
        )
    rows = declared.read_declaration(path, project)
    if (have := cluster.foreseen()) is not None:
        declared.check_room(rows, have, str(path))
    from components.promotion.registry import Registry

    deployment.resolve(Registry(project.settings), rows)
    terms = {product: project.terms(product) for row in rows.values() for product in row.models}
    for product, one in terms.items():
        open_filter(one)
        marker.check(product, one, project.settings)

    def put(settings: Settings) -> str:
        done = deployment.apply(settings, rows, str(path), terms)
        names = {"changed": done.changed, "left alone": done.kept, "taken away": done.removed}
        said = "; ".join(f"{what}: {', '.join(parts)}" for what, parts in names.items() if parts)
        return f"{path.name} is served at {done.url} ({said}); genloom serve --status says more."

    return Wish(f"the applications of {path.name}", put)


def _start(settings: Settings, wish: Wish, detach: bool, port: int | None, host: str | None) -> None:
    from components.serving import server
    from components.settings import cluster_address

    _warn(settings)
    if cluster_address():
        typer.echo(wish.put(settings))
        return
    before = server.find(settings)
    if not detach and before is None:
        _foreground(settings, wish)
        return
    server.start_detached(settings, port, host)
    try:
        typer.echo(wish.put(settings))
    except BaseException:
        if before is None:
            server.stop(settings)
        raise
    typer.echo("It runs in the background; end it with genloom serve --stop.")


def _foreground(settings: Settings, wish: Wish) -> None:
    from components.serving import server

    typer.echo(f"Starting Ray and {wish.name} …")
    with server.hosting(settings, settings.host, settings.port):
        typer.echo(wish.put(settings))
        typer.echo("End it with Ctrl-C.")
        server.wait_for_signal()


def _warn(settings: Settings) -> None:
    """Say that nobody is let in where that is so."""
    from components.serving.keys import keyring
    from components.settings import LOOPBACK

    if settings.host not in LOOPBACK and not any(
        key.revoked is None for key in keyring(settings).keys().values()
    ):
        typer.echo(
            f"On {settings.host} nobody is let in without a key, and there are none yet; "
            "make one with genloom keys create NAME.",
            err=True,
        )


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
    return registry.usable(product, which)


def _said(version: Version, url: str) -> list[str]:
    tried = [f"curl {url}/v1/models", *_lines(version.product, url)]
    return [f"{version.name} ({version.family}) is served at {url}; try", *(f"  {line}" for line in tried)]


def _lines(product: str, url: str) -> list[str]:
    """What to try on a product, by what the server says of it."""
    from components.serving import client

    about = client.served(url, product) or {}
    routes = about.get("routes", [])
    if routes == ["/v1/images/edits"]:
        mask = " --mask MASK.png" if about["source"]["kind"] == "mask" else ""
        return [f"genloom edit {product} PICTURE.png{mask} -o out.png"]
    if about.get("modality") == "audio":
        words = f" --prompt {shlex.quote(' '.join(about['classes'][:3]))}" if about["classes"] else ""
        return [f"genloom generate {product}{words} -o out.wav"]
    if about.get("modality") == "music":
        return [f"genloom generate {product} -n 4 -o out"]
    if about.get("modality") == "series":
        numbers = ", ".join("3142"[step % 4] for step in range(16))
        return [
            f"genloom generate {product} --context FILE.csv --horizon {about['horizon']} -n 100 -o out.csv",
            f"""curl -s {url}/v1/generations -H 'content-type: application/json' """
            f"""-d '{{"model": "{product}", "context": [{numbers}], "horizon": 4, "n": 20}}'""",
        ]
    if about.get("modality") == "molecule":
        return [f"genloom generate {product} -n 100 -o out.smi"]
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
    from components.settings import cluster_address

    if cluster_address():
        server.withdraw(settings)
        typer.echo("Nothing of this project is served on the cluster now.")
        return
    stopped = server.stop(settings)
    typer.echo("No server runs." if stopped is None else f"The server at {stopped.url} has ended.")


def _status(settings: Settings, as_json: bool) -> None:
    from components.serving import client, deployment, server

    running = server.find(settings)
    content: dict[str, object] = {"running": running is not None}
    held: list[dict[str, Any]] = []
    if running is not None:
        content |= {"url": running.url, "pid": running.pid, "log": str(server.log_of(settings))}
        held = deployment.status(settings, running.url)
    if as_json:
        awake = [one["url"] for one in held if not one["sleeps"]]
        models = {"models": [model for url in awake for model in client.models(url)], "applications": held}
        facts(content | (models if running is not None else {}), as_json)
        return
    facts(content, as_json)
    if running is not None:
        shown = [
            one | {"models": ", ".join(f"{name}/{v}" for name, v in one["models"].items())} for one in held
        ]
        listing(shown, as_json, empty="It serves nothing yet.")
