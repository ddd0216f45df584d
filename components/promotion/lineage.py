"""Where a version comes from: its run, data, code, parameters, parent, evaluation and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.evaluation.report import Metric
from components.promotion import ledger
from components.promotion.ledger import Line
from components.promotion.registry import Registry
from components.promotion.version import Version, parents
from components.settings import Settings


@dataclass(frozen=True)
class Lineage:
    """Everything that made a version; `ancestors` are the versions that it was started from, nearest first.

    `descendants` are those that were made from it.
    """

    version: Version
    ancestors: tuple[str, ...]
    descendants: tuple[str, ...]
    metrics: Mapping[str, Metric]
    protocol: Mapping[str, Any]
    events: tuple[Line, ...]


def lineage(settings: Settings, version: Version) -> Lineage:
    """Gather the lineage of a version from the registry, its evaluation and the ledger."""
    registry = Registry(settings)
    report = registry.report(version)
    lines = ledger.read(ledger.path_of(settings, version.product))
    return Lineage(
        version=version,
        ancestors=_ancestors(registry, version),
        descendants=tuple(one.name for one in descendants(registry, [version])),
        metrics=report.metrics,
        protocol=report.protocol,
        events=tuple(line for line in lines if version.number in (line.version, line.champion)),
    )


def _ancestors(registry: Registry, version: Version) -> tuple[str, ...]:
    """Follow `init` to its start; a version can only start from one that was there before it.

    What an imported version was started from lies in another project, so it is named and not looked for.
    """
    found = []
    while parent := version.parameters.get("init"):
        found.append(parent)
        if parent.startswith("hf:") or version.origin:
            break
        version = registry.named(parent)
    return tuple(found)


def descendants(registry: Registry, roots: Sequence[Version]) -> list[Version]:
    """The versions of all products that were made from `roots`, directly or not; parents come before children."""
    every = [version for product in registry.products() for version in registry.versions(product)]
    made, found = {version.name for version in roots}, list[Version]()
    while fresh := [one for one in every if one.name not in made and parents(one) & made]:
        made |= {one.name for one in fresh}
        found += fresh
    return found


def trained_on(registry: Registry, dataset: str, revision: str = "") -> list[Version]:
    """The versions of all products that were trained on a dataset, or on that revision of it, by its first digits."""
    return [
        version
        for product in registry.products()
        for version in registry.versions(product)
        if version.dataset == dataset and version.revision.startswith(revision)
    ]
