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
    from components.project import open_project
    from flows.check import check_retraining
    from flows.progress import say
    from flows.server import prefect_api

    project = open_project()
    check_retraining(project, run, overrides or (), workers)
    with prefect_api(project.settings):
        from flows.retrain import retrain

        outcome = retrain(project.root, run, list(overrides or ()), workers, fresh)
    for reason in outcome.reasons:
        say(f"gate       {reason}")
    if as_json:
        print(json.dumps(dataclasses.asdict(outcome), indent=2))
    else:
        print(f"{outcome.product}: version {outcome.version}, champion {outcome.champion}")
