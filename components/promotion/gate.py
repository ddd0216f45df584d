"""The gate: may a challenger take the champion's place? Pure: two reports in, a verdict with reasons out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.errors import UserError, unknown
from components.evaluation.report import Metric, Report
from components.project import Guard, ProductRow


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger is accepted, why in full sentences, and the metric that decides."""

    accepted: bool
    reasons: tuple[str, ...]
    primary: str


@dataclass(frozen=True)
class Finding:
    """One condition: whether it holds, and the sentence that says so."""

    holds: bool
    sentence: str


def decide(challenger: Report, champion: Report | None, product: ProductRow) -> Verdict:
    """Judge `challenger` by the product's terms; without a champion its guards alone decide.

    The primary metric (by default the first of the report) must be better by more than `min_gain`, and every
    guard must hold. A report that lacks a metric which the product names is refused.
    """
    primary = product.primary or primary_metric(challenger, product)
    if primary not in challenger.metrics:
        return Verdict(False, (_lacking(challenger, primary, "primary metric").sentence,), primary)
    if champion is not None and champion.artifact == challenger.artifact:
        return Verdict(False, ("The challenger is already champion.",), primary)
    if champion is None:
        findings = [_first(primary, challenger.metrics[primary])]
    else:
        findings = _comparable(challenger, champion, primary)
        if not findings:
            findings = _compared(
                primary, challenger.metrics[primary], champion.metrics[primary], product.min_gain
            )
    findings += [_guarded(challenger, name, guard) for name, guard in product.guards.items()]
    accepted = all(finding.holds for finding in findings)
    return Verdict(accepted, tuple(finding.sentence for finding in findings), primary)


def primary_metric(report: Report, product: ProductRow | None) -> str:
    """The metric that decides: the product's `primary` where the report has it, or its first."""
    if product is not None and product.primary in report.metrics:
        return str(product.primary)
    if not report.metrics:
        raise UserError(
            f"The report on the artifact {report.artifact[:12]} holds no metric; evaluate it again."
        )
    return next(iter(report.metrics))


def shown(metric: Metric) -> str:
    """A value and its 95% interval, such as “12.3 [11.8, 12.9]”."""
    return f"{metric.value:.4g} [{metric.low:.4g}, {metric.high:.4g}]"


def _lacking(report: Report, name: str, role: str) -> Finding:
    """A report without a metric that the product names is judged by nothing."""
    return Finding(
        False, f"The challenger's report lacks it: {unknown(f'metric for the {role}', name, report.metrics)}"
    )


def _first(name: str, metric: Metric) -> Finding:
    if not math.isfinite(metric.value):
        return Finding(False, f"The challenger's {name} is {metric.value}, which is no number to stand on.")
    return Finding(True, f"There is no champion yet; the challenger's {name} is {shown(metric)}.")


def _comparable(challenger: Report, champion: Report, primary: str) -> list[Finding]:
    """Why the two reports cannot be compared; nothing if they can."""
    mend = (
        "evaluate the champion again in the same way, as genloom retrain does where it can, "
        "or promote with --force."
    )
    ours, theirs = (challenger.dataset, challenger.revision), (champion.dataset, champion.revision)
    found = []
    if ours != theirs:
        found.append(
            f"The challenger was evaluated on {_data(*ours)} and the champion on {_data(*theirs)}; {mend}"
        )
    changed = _differences(challenger.protocol, champion.protocol)
    if changed:
        found.append(f"The two were evaluated by different protocols ({changed}); {mend}")
    if not found and primary not in champion.metrics:
        found.append(
            f"The champion's report has no {primary}; choose a primary metric that both have, "
            "or promote with --force."
        )
    return [Finding(False, sentence) for sentence in found]


def _data(dataset: str, revision: str) -> str:
    return f"{dataset} at revision {revision[:12]}"


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    return ", ".join(f"{name} is {ours.get(name)} against {theirs.get(name)}" for name in names)


def _compared(name: str, ours: Metric, theirs: Metric, least: float) -> list[Finding]:
    """The primary metric's gain, and a remark on the intervals, which decides nothing."""
    gain = theirs.value - ours.value if ours.better == "lower" else ours.value - theirs.value
    finite = math.isfinite(ours.value)
    holds = finite and (gain > least or not math.isfinite(theirs.value))
    values = f"The challenger's {name} is {shown(ours)} and the champion's {shown(theirs)}, {ours.better} is better"
    asked = f", and a gain of more than {least:.4g} is asked for" if least else ""
    if not math.isfinite(gain):
        return [Finding(holds, f"{values}; a value that is not finite never wins.")]
    size = f"{abs(gain):.4g} {'better' if gain > 0 else 'worse'}" if gain else "equal"
    apart = ours.high < theirs.low or theirs.high < ours.low
    remark = f"Their 95% intervals {'do not overlap' if apart else 'overlap'}."
    return [Finding(holds, f"{values}: it is {size}{asked}."), Finding(True, remark)]


def _guarded(challenger: Report, name: str, guard: Guard) -> Finding:
    """NaN keeps no limit."""
    metric = challenger.metrics.get(name)
    if metric is None:
        return _lacking(challenger, name, "guard")
    limits, holds = [], True
    if guard.least is not None:
        limits.append(f"at least {guard.least:.4g}")
        holds = holds and metric.value >= guard.least
    if guard.most is not None:
        limits.append(f"at most {guard.most:.4g}")
        holds = holds and metric.value <= guard.most
    verb, asked = "keeps" if holds else "breaks", " and ".join(limits) or "nothing"
    return Finding(
        holds, f"The challenger {verb} the guard on {name}: it is {shown(metric)}, {asked} is asked for."
    )
