"""What an evaluation says: metrics with intervals, the protocol, a baseline and real data beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from components import files
from components.errors import UserError
from components.modalities.modality import Direction

NONE: Mapping[str, bytes] = {}


@dataclass(frozen=True)
class Metric:
    """A value with its 95% interval and the direction in which it is better."""

    value: float
    low: float
    high: float
    better: Direction


@dataclass(frozen=True)
class Report:
    """An evaluation of one artifact on one dataset revision.

    `metrics` are the model's, `baseline` those of a trivial model, `reference` those of real rows against
    real rows under the same protocol. The first metric is the primary one unless the product names another.
    `facts` are numbers that have no better direction: name → column (model, baseline, real) → value.
    `pictures` are file names beside the report.
    """

    artifact: str
    family: str
    dataset: str
    revision: str
    protocol: Mapping[str, Any]
    metrics: Mapping[str, Metric]
    baseline: Mapping[str, Metric] = field(default_factory=dict)
    reference: Mapping[str, Metric] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    seconds: float = 0.0


def comparable(one: Report, other: Report) -> bool:
    """Whether the two reports' numbers may be compared: same dataset revision, same protocol."""
    return (one.dataset, one.revision, one.protocol) == (other.dataset, other.revision, other.protocol)


def table(report: Report) -> list[dict[str, str]]:
    """A row for each metric and fact: the model, the trivial model and real rows side by side, for people."""
    columns = {"model": report.metrics, "baseline": report.baseline, "real": report.reference}
    metrics = [
        {"metric": name, "better": metric.better}
        | {column: _cell(found.get(name)) for column, found in columns.items()}
        for name, metric in report.metrics.items()
    ]
    facts = [
        {"metric": name, "better": "–"}
        | {column: f"{fact[column]:.3g}" if column in fact else "–" for column in columns}
        for name, fact in report.facts.items()
    ]
    return metrics + facts


def sentence(report: Report) -> str:
    """What was measured on what, for people."""
    protocol = report.protocol
    if "tokens" in protocol:
        held_out = "molecules" if "fingerprint" in protocol else "pieces"
        return (
            f"{protocol['tokens']:,} tokens of the test split of {report.dataset}; {protocol['samples']} samples "
            f"beside {protocol['reference']} held-out {held_out} (real); in brackets, 95% intervals."
        )
    asked = protocol.get("asked", "nothing")
    how = "" if asked == "nothing" else f", asked for by {asked},"
    found = (
        f"{protocol['samples']} samples{how} against {protocol['held_out']} rows of the test split of "
        f"{report.dataset}; in brackets, 95% intervals"
    )
    real = f"{protocol['reference']} training rows" if protocol["reference"] else ""
    if asked.startswith(("labels", "captions")):
        real += ", and the held-out rows where it is asked whether samples are what was asked for"
    return f"{found}; real: {real}." if real else f"{found}."


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    return f"{metric.value:.3g} [{metric.low:.3g}, {metric.high:.3g}]"


def write_report(folder: Path, report: Report, pictures: Mapping[str, bytes] = NONE) -> None:
    """Write `report` as JSON and its pictures to `folder`; while they are not whole there is no report."""
    with locked(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").unlink(missing_ok=True)
        for name, content in pictures.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            files.write(folder / name, content)
        files.write(folder / "report.json", json.dumps(dataclasses.asdict(report), indent=2))


def locked(folder: Path) -> FileLock:
    """Keeps others from writing another report to `folder` meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote; raises `UserError` if the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name in ("metrics", "baseline", "reference"):
            content[name] = {key: Metric(**value) for key, value in content[name].items()}
        content["pictures"] = tuple(content["pictures"])
        return Report(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The report {path} is damaged; remove it and evaluate again.") from error
