"""`genloom train`: one run, trained or resumed."""

from __future__ import annotations

from typing import Annotated

import typer

Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a field, such as model.latent=32; may be repeated."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes of Ray Train; 0 trains in this one. Default: the run's row, or 1 where a Ray runs, else 0.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Train anew even if this very training is there already.")
]


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("train")(train_run)


def train_run(
    run: Annotated[str, typer.Argument(help="A run of params.yaml.")],
    overrides: Set = None,
    workers: Workers = None,
    fresh: Fresh = False,
) -> None:
    """Train a run on its prepared data; after a kill, the same command goes on from the last checkpoint."""
    from components.data.prepare import reproduce
    from components.project import open_project
    from flows.progress import say, training_bar

    project = open_project()
    row = project.run(run, overrides or ())
    from components.train.launch import train
    from components.train.plan import check_run

    check_run(project, run, row)
    reproduce(project, [project.product(row.product).dataset])
    with training_bar(run, row.train.steps) as show:
        trained = train(project, run, overrides or (), workers, fresh, show)
    done = "was trained already; --fresh trains it anyway" if trained.skipped else "is trained"
    say(f"{trained.run_id} {done}. Samples: {trained.folder / 'samples'}")
    print(trained.artifact)
    say(f"Next: genloom evaluate {trained.run_id}, or genloom retrain {run} for the whole chain.")
