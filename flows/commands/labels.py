"""`genloom labels`: the key with which files are signed, and what a file says of its origin."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import FailedError, UserError
from flows.commands.show import AsJson, facts

if TYPE_CHECKING:
    from components.labels.credentials import Credential
    from components.labels.reading import Reading

File = Annotated[
    Path,
    typer.Argument(help="A picture, a recording, a text, a JSON answer or Parquet.", show_default=False),
]
Chain = Annotated[
    Path | None,
    typer.Option(help="Your own certificate in PEM, its issuers behind it.", show_default=False),
]
OwnKey = Annotated[
    Path | None, typer.Option("--key", help="Its private key in PEM, without a password.", show_default=False)
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Sign with another key from now on; what is signed stays known.")
]


def attach(app: typer.Typer) -> None:
    """Add the noun to `app`."""
    labels = typer.Typer(no_args_is_help=True, help="Marks that say which model made a file.")
    labels.command("init")(init)
    labels.command("read")(read)
    app.add_typer(labels, name="labels")


def init(
    certificate: Chain = None, key: OwnKey = None, replace: Replace = False, as_json: AsJson = False
) -> None:
    """Make a key that signs what is generated, or take your own; products with labels: signed use it."""
    from components.labels import credentials
    from components.project import open_project

    project = open_project()
    if (certificate is None) != (key is None):
        raise UserError("Of --certificate and --key only one is given; give both, or neither to make them.")
    if not replace:
        credentials.check_free(project.settings)
    if certificate is not None and key is not None:
        made = credentials.keep(project.settings, _bytes(certificate), _bytes(key))
    else:
        made = credentials.make(project.settings)
    if as_json:
        facts({**asdict(made), "folder": str(made.folder)}, True)
        return
    _say(made, [name for name, row in project.tables.products.items() if row.labels == "signed"])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file in PEM.") from error


def _say(made: Credential, products: list[str]) -> None:
    facts(
        {
            "signs as": made.name,
            "until": made.until.date().isoformat(),
            "sha256": made.fingerprint,
            "certificate": made.folder / "certificate.pem",
            "key": f"{made.folder / 'key.pem'} (keep it secret)",
        },
        False,
    )
    if products:
        typer.echo(f"Next: serve {', '.join(products)} again, whose labels are signed.")
    else:
        typer.echo("Next: write labels: signed into a product's row of params.yaml, and serve it again.")


def read(file: File, as_json: AsJson = False) -> None:
    """Say what a file tells of its origin and whether that holds; exit code 1 if it was altered."""
    from components.labels.reading import read_path
    from components.project import open_project

    found = read_path(file, open_project().settings)
    facts(asdict(found) | {"file": str(file)} if as_json else _told(found), as_json)
    if found.verdict == "altered":
        raise FailedError(f"{file} is not as it was made; {found.sentence}")


def _told(found: Reading) -> dict[str, Any]:
    """What a person looks for."""
    content: dict[str, Any] = {"verdict": found.verdict, "": found.sentence, "kind": found.media_type}
    if found.statement is not None:
        said = {"made by": found.statement.name, "seed": found.statement.seed}
        digest = {"artifact": found.statement.digest or None, "generator": found.statement.generator or None}
        content |= {name: value for name, value in (said | digest).items() if value is not None}
        content |= {"served by": found.statement.producer} if found.statement.producer else {}
    if found.signature is not None:
        content["signature"] = f"{found.signature.state}, by {found.signature.signer}"
    if found.standing is not None:
        content["version"] = found.standing
    return content | {"content": found.content}
