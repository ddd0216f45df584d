"""`genloom check`: the whole of `params.yaml`, `serve.yaml` and `schedule.yaml`, before anything is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows.commands.show import AsJson, listing

if TYPE_CHECKING:
    from components.project import Project


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("check")(check_project)


def check_project(as_json: AsJson = False) -> None:
    """Check params.yaml, serve.yaml and schedule.yaml whole. Exit code 2 if anything is wrong."""
    from components.errors import UserError
    from components.project import open_project

    project = open_project()
    wanted = {name: project.run(name) for name in project.tables.runs}
    idle = [name for name in project.tables.products if all(row.product != name for row in wanted.values())]
    rows = [
        {
            "run": name,
            "product": row.product,
            "family": row.family,
            "finding": _finding(project, row.product, name),
        }
        for name, row in wanted.items()
    ]
    rows += [
        {"run": "–", "product": name, "family": "–", "finding": found}
        for name in idle
        if (found := _finding(project, name)) != "ok"
    ]
    listing(rows, as_json, empty="params.yaml holds no runs yet.")
    wrong = [row["product"] if row["run"] == "–" else row["run"] for row in rows if row["finding"] != "ok"]
    if wrong:
        raise UserError(f"{len(wrong)} entries of params.yaml are wrong: {', '.join(wrong)}; see above.")
    _check_serving(project, as_json)
    _check_schedules(project, as_json)


def _finding(project: Project, product: str, run: str | None = None) -> str:
    """What is wrong with a product, or with one of its runs; ok if nothing is."""
    from components.errors import UserError
    from components.filtering import open_filter
    from components.labels import marker
    from components.train.plan import check_product, check_run
    from components.train.wanted import check_init

    try:
        check_product(project, product)
        terms = project.terms(product)
        open_filter(terms)
        marker.check(product, terms, project.settings)
        if run is not None:
            check_run(project, run, project.run(run))
            check_init(project, project.run(run))
    except UserError as error:
        return str(error)
    return "ok"


def _check_serving(project: Project, as_json: bool) -> None:
    from components import cluster
    from components.serving import declared

    path = project.root / declared.FILE
    if not path.is_file():
        return
    rows = declared.read_declaration(path, project)
    if (have := cluster.foreseen()) is not None:
        declared.check_room(rows, have, str(path))
    if not as_json:
        typer.echo(f"{path}: ok, {len(rows)} applications")


def _check_schedules(project: Project, as_json: bool) -> None:
    from components.errors import UserError
    from components.schedules import path_of, read_schedules
    from flows.check import check_retraining

    path = path_of(project.root)
    rows = read_schedules(project.root).schedules
    for name, row in rows.items():
        try:
            check_retraining(project, row.run, row.set, row.workers)
        except UserError as error:
            raise UserError(f"In {path}, schedules.{name}: {error}") from error
    if rows and not as_json:
        typer.echo(f"{path}: ok, {len(rows)} schedules")
