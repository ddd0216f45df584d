"""`genloom train`: one run, trained or resumed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from components.project import Project

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
    if not fresh:
        _check_withdrawn(project, run, row.product, overrides or ())
    with training_bar(run, row.train.steps) as show:
        trained = train(project, run, overrides or (), workers, fresh, show)
    done = "was trained already; --fresh trains it anyway" if trained.skipped else "is trained"
    say(f"{trained.run_id} {done}. Samples: {trained.folder / 'samples'}")
    print(trained.artifact)
    say(f"Next: genloom evaluate {trained.run_id}, or genloom retrain {run} for the whole chain.")


def _check_withdrawn(project: Project, run: str, product: str, overrides: Sequence[str]) -> None:
    """Raise `WithdrawnError` if this very training made a version that was withdrawn: it would come back by it."""
    from components.promotion import revocation

    if revocation.standing_of(project.settings, product).revoked:
        from components.promotion.registry import Registry
        from components.train.wanted import plan_of

        found = Registry(project.settings).find(product, plan_of(project, run, overrides).key)
        if found is not None:
            revocation.check(project.settings, product, found.number)
