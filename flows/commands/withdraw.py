"""`genloom models withdraw`, `restore`, `approve` and `live`: which versions may answer, and which do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import UserError
from flows.commands.show import AsJson, listing

if TYPE_CHECKING:
    from components.project import Project
    from components.promotion.registry import Registry
    from components.promotion.version import Version
    from components.promotion.withdraw import Withdrawn

Named = Annotated[str | None, typer.Argument(help="A version, such as digits/3.", show_default=False)]
Reason = Annotated[
    str,
    typer.Option("--reason", help="Why; kept in the ledger, and told to applications.", show_default=False),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="All versions that were trained on NAME, or on NAME@REVISION by its first digits.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")]
PATIENCE = 5.0
"""Seconds in which replicas that can be seen must have stopped answering."""
SHORTEST = 4
"""Digits of a revision that name it."""


def attach_models(models: typer.Typer) -> None:
    """Add the verbs to the noun `models`."""
    models.command("live")(show_live)
    models.command("approve")(approve_model)
    models.command("withdraw")(withdraw_models)
    models.command("restore")(restore_models)


def withdraw_models(
    version: Named = None,
    reason: Reason = "",
    dataset: Data = None,
    with_descendants: Annotated[
        bool, typer.Option("--descendants", help="Also the versions that were made from it.")
    ] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete the weights, for ever; hashes and figures stay.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let nobody use a version any more: servers stop answering with it within a second."""
    from components.project import open_project
    from components.promotion.lineage import descendants
    from components.promotion.registry import Registry

    project = open_project()
    registry = Registry(project.settings)
    if not reason.strip():
        raise UserError("To withdraw a version, say why: --reason “…”.")
    roots = _meant(registry, version, dataset)
    made = descendants(registry, roots)
    asked = [*roots, *(made if with_descendants else [])]
    left = [] if with_descendants else [one for one in made if one.withdrawn is None]
    if dataset is not None or with_descendants or purge:
        _confirm(asked, "withdrawn, with all weights deleted for ever" if purge else "withdrawn", yes)
    named = dataset is not None
    done = [_withdraw(project, one, reason, named and one in roots, purge) for one in asked]
    if as_json:
        listing(done, True)
    for one in [] if as_json else done:
        _say(one)
    if left:
        names = " and ".join(one.name for one in left)
        typer.echo(
            f"Made from that, and not withdrawn: {names}; add --descendants to withdraw these too.", err=True
        )


def restore_models(
    version: Named = None,
    reason: Reason = "",
    dataset: Data = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Lift a withdrawal: the version may be used again, and is promoted as any other."""
    from components.project import open_project
    from components.promotion.registry import Registry
    from components.promotion.withdraw import restore

    project = open_project()
    asked = _meant(Registry(project.settings), version, dataset)
    if not reason.strip():
        raise UserError("To lift a withdrawal, say why: --reason “…”.")
    if dataset is not None:
        asked = [one for one in asked if one.withdrawn is not None]
        _confirm(asked, "usable again", yes)
    done = [restore(project.settings, one, reason, dataset is not None) for one in asked]
    if as_json:
        listing([asdict(one) for one in done], True)
        return
    for one in done:
        typer.echo(_lifted(one))


def approve_model(
    version: Annotated[str, typer.Argument(help="A version, such as digits/3.", show_default=False)],
    by: Annotated[str, typer.Option("--by", help="Who has looked at it and approves it.")],
    why: Annotated[str, typer.Option("--why", help="A remark for the ledger.", show_default=False)] = "",
) -> None:
    """Put on record that somebody approves a version, which a product with approval: required needs."""
    from components.project import open_project
    from components.promotion.registry import Registry
    from components.promotion.withdraw import approve

    project = open_project()
    found = _numbered(Registry(project.settings), version)
    row = project.product(found.product)
    new = approve(project.settings, found, by, why)
    typer.echo(f"{found.name} is approved by {by}." if new else f"{found.name} was approved by {by} before.")
    if row.approval != "required":
        typer.echo(
            f"The product {found.product} asks for no approval; write approval: required into its row."
        )


def show_live(
    product: Annotated[str | None, typer.Argument(help="Only this product.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Say which version answers now, replica by replica, with the canary and the shadow beside it."""
    from components.project import open_project
    from components.serving import live

    project = open_project()
    if product is not None:
        project.product(product)
    found = [one for one in live.read(project.settings) if product in (None, one.product)]
    if as_json:
        listing([{**asdict(one), "url": _url(project, one.product)} for one in found], True)
        return
    rows = [
        {
            "product": one.product,
            "answers": "nothing" if one.version is None else f"{one.product}/{one.version}",
            "canary": None if one.canary is None else f"{one.product}/{one.canary}, {one.share:.1%}",
            "shadow": None if one.shadow is None else f"{one.product}/{one.shadow}, {one.share:.1%}",
            "follows": "the champion" if one.follows else "this version",
            "url": _url(project, one.product),
            "replica": f"{one.replica} at {one.node}",
        }
        for one in found
    ]
    listing(rows, False, "No replica answers with anything now; start one with genloom serve PRODUCT.")
    for why in sorted({one.withdrawn for one in found if one.withdrawn}):
        typer.echo(why)


def _url(project: Project, product: str) -> str | None:
    from components.serving import server

    return server.url_of(project.settings, product)


def _meant(registry: Registry, version: str | None, dataset: str | None) -> list[Version]:
    """The versions that the arguments name; raises `UserError` if there are none."""
    from components.promotion.lineage import trained_on

    if (version is None) == (dataset is None):
        raise UserError(
            "Name a version, such as digits/3, or the data of versions with --dataset; one of the two."
        )
    if version is not None:
        return [_numbered(registry, version)]
    name, _, revision = str(dataset).partition("@")
    if revision and len(revision) < SHORTEST:
        raise UserError(f"The revision “{revision}” is too short; write at least {SHORTEST} digits of it.")
    found = trained_on(registry, name, revision)
    if not found:
        known = {one.dataset for product in registry.products() for one in registry.versions(product)}
        raise UserError(
            f"No version was trained on {dataset}; versions were trained on: {', '.join(sorted(known)) or 'nothing'}; "
            "genloom models lineage VERSION shows its revision."
        )
    return found


def _numbered(registry: Registry, version: str) -> Version:
    """The version, by its number: an alias may move between the thought and the command."""
    product, _, number = version.partition("/")
    if not (number.isascii() and number.isdigit()):
        raise UserError(
            f"“{version}” has no number; name one version, such as {product.partition('@')[0]}/3."
        )
    return registry.version(product, number)


def _confirm(versions: Sequence[Version], what: str, yes: bool) -> None:
    """Show what is meant and ask; raises `UserError` where nobody can answer."""
    for one in versions:
        said = "" if one.withdrawn is None else ", withdrawn already"
        champion = ", the champion" if "champion" in one.aliases else ""
        typer.echo(
            f"  {one.name} ({one.run}, {one.dataset} at {one.revision[:12]}{champion}{said})", err=True
        )
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{_these(versions)} would be {what}; add --yes if that is meant.")
    if not typer.confirm(f"{_these(versions)} will be {what}. Is that meant?", err=True):
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(1)


def _lifted(done: Withdrawn) -> str:
    """What became of a withdrawal, for a person."""
    product, _, number = done.name.partition("/")
    if done.gone:
        data = "; its data may be used again" if done.changed else ""
        return f"{done.name} stays withdrawn, as its weights were purged{data}."
    if not done.changed:
        return f"{done.name} is not withdrawn; nothing was changed."
    return (
        f"{done.name} may be used again; make it champion with genloom promote {product} --version {number}."
    )


def _these(versions: Sequence[Version]) -> str:
    return "This version" if len(versions) == 1 else f"These {len(versions)} versions"


def _withdraw(project: Project, version: Version, reason: str, by_data: bool, purge: bool) -> dict[str, Any]:
    """Withdraw one version, and see that the replicas of this project have heard of it."""
    from components.promotion.revocation import data_name
    from components.promotion.withdraw import withdraw
    from components.serving import live

    data = data_name(version.dataset, version.revision) if by_data else ""
    done: Withdrawn = withdraw(project.settings, version, reason, data, purge)
    replicas, still = live.left(project.settings, version.product, version.number, PATIENCE)
    return {**asdict(done), "replicas": replicas, "still": still}


def _say(done: dict[str, Any]) -> None:
    """What became of one version, for a person."""
    product = str(done["name"]).partition("/")[0]
    if not done["changed"]:
        typer.echo(f"{done['name']} was withdrawn before ({done['why']}).")
    else:
        typer.echo(f"{done['name']} is withdrawn: {done['why']}.")
    if done["changed"] and done["before"] != done["champion"]:
        typer.echo(
            f"  {product} has no champion now; promote another version with genloom promote {product} --version N."
            if done["champion"] is None
            else f"  {product}/{done['champion']} is champion again."
        )
    if done["still"]:
        typer.echo(
            f"  {done['still']} of {done['replicas']} replicas still answer with it; see genloom models live {product}."
        )
    elif done["replicas"]:
        typer.echo(f"  No replica of {product} answers with it ({done['replicas']} looked at).")
