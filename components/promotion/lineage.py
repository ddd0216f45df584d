"""Where a version comes from: its run, data, code, parameters, parent, evaluation and what was decided about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.evaluation.report import Metric
from components.promotion import ledger
from components.promotion.ledger import Line
from components.promotion.registry import Registry
from components.promotion.version import Version
from components.settings import Settings


@dataclass(frozen=True)
class Lineage:
    """Everything that made a version; `ancestors` are the versions that it was started from, nearest first."""

    version: Version
    ancestors: tuple[str, ...]
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
        metrics=report.metrics,
        protocol=report.protocol,
        events=tuple(line for line in lines if version.number in (line.version, line.champion)),
    )


def _ancestors(registry: Registry, version: Version) -> tuple[str, ...]:
    """Follow `init` to its start; a version can only start from one that was there before it."""
    found = []
    parent = version.parameters.get("init")
    while parent:
        found.append(parent)
        if parent.startswith("hf:"):
            break
        parent = registry.named(parent).parameters.get("init")
    return tuple(found)
