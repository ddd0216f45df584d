"""The flow `prepare`: datasets from their sources to Parquet, by their DVC stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow, task

from flows.progress import say


def may_pass(_task: Any, _run: Any, state: Any) -> bool:
    """Whether trying again can help: not after wrong use, which stays wrong."""
    from components.errors import UserError

    error = state.result(raise_on_failure=False)
    if isinstance(error, UserError):
        return False
    say(f"failed     {type(error).__name__}: {error}")
    return True


@task(name="prepare", retries=2, retry_delay_seconds=[2, 10], retry_condition_fn=may_pass)
def prepare_dataset(root: Path, dataset: str) -> str:
    """Bring one dataset up to date; returns its revision."""
    from components.data.prepare import reproduce
    from components.project import open_project

    (prepared,) = reproduce(open_project(root), [dataset])
    say(f"prepared   {dataset}: {prepared.rows('train'):,} training rows, revision {prepared.revision[:10]}")
    return prepared.revision


@flow(name="prepare", validate_parameters=False)
def prepare(root: Path, datasets: list[str]) -> dict[str, str]:
    """Prepare `datasets` of the project at `root`; returns the revision of each."""
    return {name: prepare_dataset(root, name) for name in datasets}
