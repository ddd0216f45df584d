"""The flow `tune`: prepare → sweep → report. What a search has found before is not searched again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import flow, task

from flows.prepare import may_pass, prepare_dataset
from flows.progress import SearchBar, say

if TYPE_CHECKING:
    from components.tuning.sweep import Asked


@dataclass(frozen=True)
class Found:
    """How a search ended: its folder, the number of its best trial (None if none went all the way), what to type."""

    name: str
    folder: Path
    best: int | None
    command: str | None
    sentence: str


@task(name="sweep", retries=1, retry_delay_seconds=5, retry_condition_fn=may_pass)
def sweep_settings(root: Path, run: str, asked: Asked) -> str:
    """Do the trials that are missing; returns the name of the search."""
    from components.project import open_project
    from components.tuning.sweep import tune

    with SearchBar(run, asked.trials) as told:
        found = tune(open_project(root), run, asked, told)
    return found.name


@task(name="report", retries=1, retry_delay_seconds=2, retry_condition_fn=may_pass)
def report_search(root: Path, name: str, write: str | None) -> Found:
    """Say what was found; with `write` the best settings become the run of that name."""
    from components.errors import FailedError
    from components.project import open_project
    from components.tuning.keep import write_row
    from components.tuning.records import read_sweep, sweep_folder
    from components.tuning.report import command, sentence

    project = open_project(root)
    folder = sweep_folder(project.settings, name)
    found = read_sweep(folder)
    if found is None:
        raise FailedError(f"The search {name} is gone from {folder}; type the command again.")
    best = found.best
    picture = folder / "trials.png"
    say(f"reported   {folder / 'report.json'}" + (f" and {picture}" if picture.is_file() else ""))
    if write is not None and best is None:
        say(f"written    nothing: no trial has gone all the way, so {write} has no settings yet")
    elif write is not None and best is not None:
        write_row(project, write, found.run, found.overrides, best.settings)
        say(f"written    the run {write} into params.yaml, with the settings of trial {best.number}")
    return Found(
        name=name,
        folder=folder,
        best=None if best is None else best.number,
        command=None if best is None else command(found, best),
        sentence=sentence(found),
    )


@flow(name="tune", flow_run_name="tune-{run}", validate_parameters=False)
def tune(root: Path, run: str, asked: Asked, write: str | None = None) -> Found:
    """Search the settings of `run` of the project at `root` by training; `asked` says how long and over what."""
    from components.project import open_project

    project = open_project(root)
    product = project.run(run, asked.assignments).product
    prepare_dataset(root, project.product(product).dataset)
    return report_search(root, sweep_settings(root, run, asked), write)
