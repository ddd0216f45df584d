"""Evaluations by the names of a project: a product's artifact, a registered version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from components.data.dataset import open_dataset
from components.evaluation.evaluate import evaluate
from components.evaluation.measurement import WEIGHED
from components.evaluation.report import Report
from components.project import Project
from components.promotion.registry import Registry
from components.promotion.version import Version

Say = Callable[[str], None]


def evaluate_artifact(
    project: Project,
    product: str,
    artifact: Path,
    folder: Path,
    progress: Say | None = None,
    weighed: int = WEIGHED,
) -> Report:
    """Measure an artifact on its product's data as it is now; report and pictures go to `folder`.

    Of the first `weighed` held-out rows the likelihood is estimated by importance weighting.
    """
    dataset = open_dataset(project.prepared / project.product(product).dataset)
    cache = project.settings.shared / "cache"
    terms = project.terms(product)
    return evaluate(artifact, dataset, folder, cache, progress=progress, weighed=weighed, terms=terms)


def evaluate_version(project: Project, version: Version, progress: Say | None = None) -> tuple[Report, Path]:
    """Measure a registered version on the data as it is now; the registry gets the report. Returns its folder too."""
    registry = Registry(project.settings)
    folder = project.settings.shared / "evaluations" / version.product / str(version.number)
    report = evaluate_artifact(project, version.product, registry.fetch(version), folder, progress)
    registry.evaluated(version, folder)
    return report, folder
