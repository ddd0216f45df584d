"""`genloom retrain`: the whole chain for one run, as a Prefect flow."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from flows.commands.show import AsJson
from flows.commands.train import Fresh, Set, Workers


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("retrain")(retrain_run)


def retrain_run(
    run: Annotated[str, typer.Argument(help="A run of params.yaml.")],
    overrides: Set = None,
    workers: Workers = None,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Prepare, train, evaluate, register and promote; what is up to date is not done again."""
    from components.filtering import open_filter
    from components.project import open_project
    from components.settings import writable_home
    from components.train.fit import check_workers, workers_of
    from components.train.plan import check_product, check_run
    from components.train.wanted import check_init
    from flows.progress import say
    from flows.server import prefect_api

    project = open_project()
    row = project.run(run, overrides or ())
    check_run(project, run, row)
    check_product(project, row.product)
    open_filter(project.terms(row.product))
    check_workers(workers_of(project.settings, row.train, workers), row.train.threads)
    writable_home(project.settings)
    check_init(project, row)
    with prefect_api(project.settings):
        from flows.retrain import retrain

        outcome = retrain(project.root, run, list(overrides or ()), workers, fresh)
    for reason in outcome.reasons:
        say(f"gate       {reason}")
    if as_json:
        print(json.dumps(dataclasses.asdict(outcome), indent=2))
    else:
        print(f"{outcome.product}: version {outcome.version}, champion {outcome.champion}")
