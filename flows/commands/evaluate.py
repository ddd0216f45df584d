"""`genloom evaluate`: measure a trained model on held-out rows, beside a trivial model and real rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from components.errors import UserError
from flows.commands.show import AsJson, facts, listing

if TYPE_CHECKING:
    from components.evaluation.report import Report
    from components.project import Project
    from components.settings import Settings
    from components.train.runs import RunRecord

Name = Annotated[
    str,
    typer.Argument(
        metavar="RUN|VERSION",
        help="A run's id, its name (the latest of them), or a version such as digits/3 or digits@champion.",
        show_default=False,
    ),
]

KINDS = {".wav": "sound", ".mid": "music"}
"""What files beside a report are called; the others are pictures."""


def attach(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command("evaluate")(evaluate_model)


def evaluate_model(name: Name, as_json: AsJson = False) -> None:
    """Measure a model on the test split; nothing is measured twice."""
    from components.project import open_project

    project = open_project()
    if "/" in name or "@" in name:
        report, folder = _version(project, name)
    else:
        report, folder = _run(project, name)
    _print(report, folder, as_json)


def _run(project: Project, name: str) -> tuple[Report, Path]:
    """Evaluate a training run; the report stands in the run's folder, and MLflow gets its pictures."""
    from components.train.runs import read_run

    record = read_run(project.settings, name)
    if not record.artifact.is_dir():
        raise UserError(
            f"The run {record.id} is {record.state} and has no model yet; "
            f"type genloom train {record.run} to go on with it."
        )
    from rich.console import Console

    from components.evaluation.project import evaluate_artifact

    with Console(stderr=True).status("loading") as status:
        report = evaluate_artifact(project, record.product, record.artifact, record.evaluation, status.update)
        if record.tracking_run:
            status.update("sending the pictures to MLflow")
            _show(project.settings, record)
    return report, record.evaluation


def _show(settings: Settings, record: RunRecord) -> None:
    """Keep the report's pictures and sounds beside the training's own in MLflow, unless it has them.

    What fails is only said.
    """
    from components.tracking import Tracker

    try:
        tracker = Tracker(settings)
        there = tracker.sizes(record.tracking_run, "evaluation")
        for path in sorted(record.evaluation.glob("*")):
            if path.suffix in (".png", ".wav", ".mid") and there.get(path.name) != path.stat().st_size:
                tracker.picture(record.tracking_run, path, "evaluation")
    except UserError as error:
        print(f"MLflow has not got the pictures. {error}", file=sys.stderr)


def _version(project: Project, name: str) -> tuple[Report, Path]:
    """Evaluate a registered version on the data as it is now; the registry gets the report."""
    from rich.console import Console

    from components.evaluation.project import evaluate_version
    from components.promotion.registry import Registry

    version = Registry(project.settings).named(name)
    with Console(stderr=True).status("loading") as status:
        return evaluate_version(project, version, status.update)


def _print(report: Report, folder: Path, as_json: bool) -> None:
    """A table for people; for programs the whole report, with the pictures' paths."""
    import dataclasses

    from components.evaluation.report import sentence, table

    pictures = [str(folder / name) for name in report.pictures]
    if as_json:
        facts(dataclasses.asdict(report) | {"pictures": pictures}, True)
        return
    listing(table(report), False)
    print(f"\n{sentence(report)}")
    print("\n".join(f"{KINDS.get(Path(path).suffix, 'picture')}: {path}" for path in pictures))
