"""`genloom check`: the whole of `params.yaml` and of `serve.yaml`, before anything is started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import typer

from flows.commands.show import AsJson, listing

if TYPE_CHECKING:
    from components.project import Project


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("check")(check_project)


def check_project(as_json: AsJson = False) -> None:
    """Check params.yaml and serve.yaml whole: every field, every reference. Exit code 2 if anything is wrong."""
    from components.errors import UserError
    from components.filtering import open_filter
    from components.project import open_project
    from components.train.plan import check_product, check_run
    from components.train.wanted import check_init

    project = open_project()
    for product in project.tables.products:
        check_product(project, product)
        open_filter(project.terms(product))
    rows = []
    for name in project.tables.runs:
        row = project.run(name)
        try:
            check_run(project, name, row)
            check_init(project, row)
            found = "ok"
        except UserError as error:
            found = str(error)
        rows.append({"run": name, "product": row.product, "family": row.family, "finding": found})
    listing(rows, as_json, empty="params.yaml holds no runs yet.")
    wrong = [row["run"] for row in rows if row["finding"] != "ok"]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(rows)} runs in params.yaml are wrong: {', '.join(wrong)}; see above."
        )
    _check_serving(project, as_json)


def _check_serving(project: Project, as_json: bool) -> None:
    from components.serving import declared

    path = project.root / declared.FILE
    if not path.is_file():
        return
    rows = declared.read_declaration(path, project)
    if not os.environ.get("RAY_ADDRESS"):
        declared.check_cpus(rows, os.cpu_count() or 1, str(path))
    if not as_json:
        typer.echo(f"{path}: ok, {len(rows)} applications")
