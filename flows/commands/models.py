"""`genloom models`, `promote`, `rollback`, `ledger`: the versions of the products and who is champion."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RefusedError, UserError, unknown
from flows.commands.show import AsJson, facts, listing
from flows.commands.versions import attach_versions
from flows.commands.withdraw import attach_models

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.evaluation.report import Metric, Report
    from components.project import Project
    from components.promotion.ledger import Line
    from components.promotion.promote import Decision
    from components.promotion.registry import Registry
    from components.promotion.version import Version

Product = Annotated[str, typer.Argument(help="A product of params.yaml.", show_default=False)]
Reference = Annotated[
    str, typer.Argument(help="Such as digits/3, digits@champion, or digits.", show_default=False)
]
Why = Annotated[str, typer.Option("--why", help="A remark for the ledger.", show_default=False)]


def attach(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    models = typer.Typer(help="The registered versions of the products.", no_args_is_help=True)
    models.command("list")(list_models)
    models.command("show")(show_model)
    models.command("lineage")(show_lineage)
    attach_versions(models)
    attach_models(models)
    app.add_typer(models, name="models")
    app.command("promote")(promote_version)
    app.command("rollback")(roll_back)
    ledger = typer.Typer(help="The append-only record of promotions.", no_args_is_help=True)
    ledger.command("verify")(verify_ledger)
    ledger.command("show")(show_ledger)
    app.add_typer(ledger, name="ledger")


def list_models(
    product: Annotated[str | None, typer.Argument(help="Only this product.", show_default=False)] = None,
    last: Annotated[int, typer.Option("--last", min=1, help="How many versions of each product.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the registered versions, the newest first."""
    from components.project import open_project
    from components.promotion import ledger
    from components.promotion.registry import Registry

    project = open_project()
    registry = Registry(project.settings)
    names = registry.products() if product is None else [product]
    if product is not None and product not in registry.products():
        project.product(product)
        names = []
    for one in [] if names else ledger.products(project.settings):
        registry.check_ledger(one)
    rows = [
        _row(project, registry, version, as_json)
        for name in names
        for version in reversed(registry.versions(name)[-last:])
    ]
    listing(rows, as_json, "No versions yet; make one with genloom retrain RUN.")


def show_model(reference: Reference, as_json: AsJson = False) -> None:
    """Show one version: what it is, its metrics beside a baseline and real data, its pictures."""
    from components.project import open_project
    from components.promotion.registry import Registry

    registry = Registry(open_project().settings)
    version = registry.named(reference)
    report, folder = registry.report(version), registry.pictures(version)
    content = {
        **_origin(version),
        "digest": version.digest,
        "files": str(registry.fetch(version)) if version.withdrawn is None else None,
        "pictures": [str(folder / name) for name in report.pictures if (folder / name).is_file()],
    }
    if as_json:
        metrics = {name: dataclasses.asdict(metric) for name, metric in report.metrics.items()}
        facts({**content, "metrics": metrics, "protocol": dict(report.protocol)}, True)
        return
    facts({**content, "pictures": "\n".join(content["pictures"])}, False)
    print()
    listing(_beside(report), False)


def show_lineage(reference: Reference, as_json: AsJson = False) -> None:
    """Show where a version comes from: run, data, code, parameters, parents, evaluation, decisions."""
    from components.project import flatten, open_project
    from components.promotion.lineage import lineage
    from components.promotion.registry import Registry

    settings = open_project().settings
    found = lineage(settings, Registry(settings).named(reference))
    content = {
        **_origin(found.version),
        "started_from": list(found.ancestors) or None,
        "made_from_it": list(found.descendants) or None,
        "imported_from": found.version.origin,
        "key": found.version.key,
        "digest": found.version.digest,
        "torch": found.version.torch,
        "parameters": dict(found.version.parameters),
    }
    if as_json:
        evaluation = {name: dataclasses.asdict(metric) for name, metric in found.metrics.items()}
        events = [dataclasses.asdict(line) for line in found.events]
        facts({**content, "metrics": evaluation, "protocol": dict(found.protocol), "ledger": events}, True)
        return
    parameters = dict(flatten(found.version.parameters))
    facts({**content, "parameters": parameters, "metrics": _intervals(found.metrics)}, False)
    for line in found.events:
        print(_event(line))


def promote_version(
    product: Product,
    version: Annotated[int | None, typer.Option("--version", help="By default the challenger.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overrule the gate; needs --why.")] = False,
    why: Why = "",
) -> None:
    """Ask the gate to make a version the champion; exit code 3 if it refuses."""
    from components.project import open_project
    from components.promotion.promote import promote
    from components.promotion.version import CHALLENGER

    project = open_project()
    row = project.product(product)
    if force and not why:
        raise UserError("To overrule the gate, say why: --force --why “…”.")
    which = CHALLENGER if version is None else version
    decision = promote(project.settings, product, row, which, force, why)
    if not (decision.accepted or decision.idle):
        raise RefusedError(f"{decision.name} was refused. {' '.join(decision.reasons)}")
    _say(decision)


def roll_back(
    product: Product,
    to: Annotated[int | None, typer.Option("--to", help="By default the champion before.")] = None,
    why: Why = "",
) -> None:
    """Make an earlier champion the champion again."""
    from components.project import open_project
    from components.promotion.promote import rollback

    project = open_project()
    project.product(product)
    _say(rollback(project.settings, product, to, why))


def verify_ledger(product: Annotated[str | None, typer.Argument(show_default=False)] = None) -> None:
    """Check the chain of each ledger; exit code 1 at the first that is broken."""
    from components.project import open_project
    from components.promotion.ledger import products
    from components.promotion.promote import verify

    settings = open_project().settings
    for name in _ledgers(settings_products=products(settings), product=product):
        print(f"{name}: {verify(settings, name)} lines, the chain is whole.")


def show_ledger(product: Product, as_json: AsJson = False) -> None:
    """Show the lines of a product's ledger, the oldest first."""
    from components.project import open_project
    from components.promotion.ledger import path_of, products, read

    settings = open_project().settings
    [name] = _ledgers(settings_products=products(settings), product=product)
    lines = read(path_of(settings, name))
    if as_json:
        listing([dataclasses.asdict(line) for line in lines], True)
        return
    for line in lines:
        print(_event(line))


def _ledgers(settings_products: list[str], product: str | None) -> list[str]:
    if product is not None and product not in settings_products:
        raise unknown("ledger", product, settings_products)
    return settings_products if product is None else [product]


def _event(line: Line) -> str:
    """A line of the ledger for people, its reasons indented below it."""
    before = f"{line.product}/{line.champion}" if line.champion else "none"
    head = f"{line.time[:19].replace('T', ' ')}  {line.event} {line.product}/{line.version}"
    why = f": {line.why}" if line.why else ""
    then = "champion before" if line.event in ("promote", "rollback", "refuse", "revoke") else "champion"
    terms = [", ".join(f"{name} {value:g}" for name, value in line.terms.items())] if line.terms else []
    return "\n    ".join([f"{head} ({then}: {before}), by {line.who}{why}", *terms, *line.reasons])


def _say(decision: Decision) -> None:
    before = (
        f" in the place of {decision.product}/{decision.previous}"
        if decision.previous not in (None, decision.version)
        else ""
    )
    print(f"{decision.name} is champion{before}.")
    for reason in decision.reasons:
        print(f"  {reason}")


def _row(project: Project, registry: Registry, version: Version, as_json: bool) -> dict[str, Any]:
    """A version as a line of the listing, with its primary metric."""
    from components.promotion.gate import primary_metric, shown

    report = registry.report(version)
    primary = primary_metric(report, project.tables.products.get(version.product))
    metric = report.metrics[primary]
    value = dataclasses.asdict(metric) if as_json else {"value [95%]": shown(metric)}
    return {
        "version": version.name,
        "aliases": _aliases(version, as_json),
        **({"withdrawn": version.withdrawn} if as_json else {}),
        "family": version.family,
        "run": version.run,
        "metric": primary,
        **value,
        "created": version.created if as_json else version.created[:16].replace("T", " "),
    }


def _aliases(version: Version, as_json: bool) -> list[str]:
    """What a version is called; a person is told there what nobody may use."""
    told = [] if version.withdrawn is None or as_json else ["withdrawn"]
    return [*version.aliases, *told]


def _origin(version: Version) -> dict[str, Any]:
    return {
        "version": version.name,
        "aliases": list(version.aliases),
        "withdrawn": version.withdrawn,
        "approved_by": version.approved,
        "family": version.family,
        "run": version.run,
        "run_id": version.run_id,
        "created": version.created,
        "dataset": version.dataset,
        "revision": version.revision,
        "commit": version.commit or None,
        "dirty": version.dirty,
        "flow_run": version.flow_run or None,
        "tracking_run": version.tracking_run or None,
    }


def _beside(report: Report) -> list[dict[str, Any]]:
    """Each metric of the model beside the baseline's and real data's."""
    from components.promotion.gate import shown

    def cell(metrics: Mapping[str, Metric], name: str) -> str | None:
        return shown(metrics[name]) if name in metrics else None

    return [
        {
            "metric [95%]": name,
            "model": shown(metric),
            "baseline": cell(report.baseline, name),
            "real data": cell(report.reference, name),
            "better": metric.better,
        }
        for name, metric in report.metrics.items()
    ]


def _intervals(metrics: Mapping[str, Metric]) -> dict[str, str]:
    from components.promotion.gate import shown

    return {name: shown(metric) for name, metric in metrics.items()}
