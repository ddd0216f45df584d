"""`genloom tune`: a search for better settings of a run, by Ray Tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.show import AsJson, listing
from flows.commands.train import Set

Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over",
        help="The fields that are searched, such as lr,width or lr=1e-4..1e-2; may be repeated. Default: all fields "
        "of the family that have a search range and are not set.",
    ),
]


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("tune")(tune_run)


def tune_run(
    run: Annotated[str, typer.Argument(help="A run of params.yaml.")],
    over: Over = None,
    overrides: Set = None,
    trials: Annotated[int, typer.Option(help="Trials in all, those of earlier calls included.")] = 20,
    steps: Annotated[int | None, typer.Option(help="Steps of a trial. Default: the run's.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes that this call may take; the same call goes on later.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="What trials are compared by: a metric of the evaluation, or nats. Default: the product's."
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides which settings are proposed.")] = 0,
    searcher: Annotated[str, typer.Option(help="What proposes settings: optuna or random.")] = "optuna",
    early: Annotated[
        bool, typer.Option("--early/--whole", help="Whether a trial that falls behind is stopped early.")
    ] = True,
    concurrent: Annotated[
        int | None, typer.Option(help="Trials at once. Default: one, or one a GPU.")
    ] = None,
    write: Annotated[
        str | None, typer.Option(help="Write the best settings into params.yaml as a run of this name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search better settings of a run by training with many, compared on validation data, never on the test split.

    The same command goes on with what is there; more --trials make a search longer.
    """
    from components.project import open_project
    from components.settings import writable_home
    from components.train.plan import check_product
    from components.train.wanted import check_init
    from components.tuning.keep import check_new
    from components.tuning.sweep import Asked, check_asked
    from flows.server import prefect_api

    project = open_project()
    asked = Asked(
        overrides=tuple(overrides or ()),
        over=tuple(over or ()),
        trials=trials,
        steps=steps,
        minutes=minutes,
        metric=metric,
        seed=seed,
        searcher=searcher,
        early=early,
        concurrent=concurrent,
    )
    row, _ = check_asked(project, run, asked)
    check_product(project, row.product)
    if write is not None:
        check_new(project, write)
    writable_home(project.settings)
    check_init(project, row)
    with prefect_api(project.settings):
        from flows.tune import tune

        _show(tune(project.root, run, asked, write).folder, as_json)


def _show(folder: Path, as_json: bool) -> None:
    """The table of trials and what to type now, or all of it as JSON."""
    from components.tuning.records import read_sweep
    from components.tuning.report import command, report, sentence, table
    from flows.progress import say

    found = read_sweep(folder)
    assert found is not None, "the flow has read it"
    if as_json:
        print(json.dumps(report(found), indent=2))
        return
    listing(table(found), as_json=False)
    print(sentence(found))
    if found.best is not None:
        say("Next, for as many steps as the run has:")
        print(command(found, found.best))
