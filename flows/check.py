"""What can be said of a retraining before anything is started for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.project import Project


def check_retraining(project: Project, run: str, overrides: Sequence[str], workers: int | None) -> None:
    """Raise `UserError` if a run, its overrides, its product or its workers cannot be."""
    from components.filtering import open_filter
    from components.settings import writable_home
    from components.train.fit import check_workers, workers_of
    from components.train.plan import check_product, check_run
    from components.train.wanted import check_init

    row = project.run(run, overrides)
    check_run(project, run, row)
    check_product(project, row.product)
    open_filter(project.terms(row.product))
    check_workers(workers_of(project.settings, row.train, workers), row.train.threads)
    writable_home(project.settings)
    check_init(project, row)
