"""Trials of a version beside the champion: a canary answers a share of the requests, a shadow is asked in secret.

A trial is a line in the ledger, which every replica follows. A canary ends by a promotion or by being withdrawn,
with the reason, whichever replica finds it first; a shadow ends when somebody stops it. Another champion ends both.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from components.errors import UserError
from components.project import ProductRow
from components.promotion import ledger
from components.promotion.canary import Criteria, Verdict
from components.promotion.ledger import Line, Standing
from components.promotion.promote import Decision, allowed, entry_of, record, settle
from components.promotion.registry import Registry
from components.promotion.version import CHALLENGER, Version
from components.settings import Settings

Kind = Literal["canary", "shadow"]


def start(
    settings: Settings,
    product: str,
    row: ProductRow,
    kind: Kind,
    criteria: Criteria,
    which: str | int = CHALLENGER,
    force: bool = False,
    why: str = "",
) -> Decision:
    """Let a version be tried beside the champion; a canary must pass the gate, as it may become champion by itself.

    A canary may follow the shadow of the same version. Safe to repeat. Raises `UserError` where there is no
    champion, or another trial runs, and for a version that was withdrawn.
    """
    registry = Registry(settings)
    with ledger.locked(settings, product):
        lines = settle(registry, product)
        standing = ledger.standing(lines)
        version = registry.version(product, which)
        if _runs(kind, version, standing):
            _same_terms(kind, version, standing.trial, criteria)
            said = f"The {kind} of {version.name} runs already."
            return Decision(product, version.number, True, (said,), standing.champion)
        accepted, reasons = True, tuple[str, ...]()
        if kind == "canary":
            accepted, reasons = allowed(registry, version, row, lines, force, "tries it")
        if accepted:
            registry.fetch(version)  # what cannot be fetched whole cannot be tried
            entry = entry_of(kind, version, standing.champion, reasons, why)
            record(registry, dataclasses.replace(entry, terms=criteria.numbers()))
        return Decision(product, version.number, accepted, reasons, standing.champion)


def _same_terms(kind: Kind, version: Version, trial: Line | None, criteria: Criteria) -> None:
    """Raise `UserError` if the trial that runs began with other terms, which it keeps to its end."""
    terms = trial.terms if trial is not None else None
    if terms is not None and terms != criteria.numbers():
        told = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        raise UserError(
            f"The {kind} of {version.name} runs already, by other terms ({told}); stop it first with "
            f"genloom {kind} stop {version.product}, or ask for the same."
        )


def stop(settings: Settings, product: str, kind: Kind, why: str = "") -> Line:
    """End the trial that runs, without a verdict, and return the line that began it; `UserError` if none runs."""
    registry = Registry(settings)
    with ledger.locked(settings, product):
        standing = ledger.standing(settle(registry, product))
        trial = standing.trial
        if trial is None or trial.event != kind:
            raise UserError(f"No {kind} of {product} runs; start one with genloom {kind} start {product}.")
        reasons = (f"{ledger.who()} stopped the {kind}.",)
        version = registry.version(product, trial.version)
        record(registry, entry_of("stop", version, standing.champion, reasons, why))
        return trial


def conclude(settings: Settings, product: str, turn: str, verdict: Verdict) -> bool:
    """Promote or withdraw the trial that the line with the hash `turn` began, as `verdict` says.

    False, and nothing is changed, if that trial is over: another replica was faster, or the champion has moved.
    """
    registry = Registry(settings)
    with ledger.locked(settings, product):
        standing = ledger.standing(settle(registry, product))
        trial = standing.trial
        if trial is None or trial.hash != turn or verdict.what == "wait":
            return False
        version = registry.version(product, trial.version)
        if verdict.what == "promote":
            registry.fetch(version)
            why = f"promoted by the server: its {trial.event} went well"
        else:
            why = f"withdrawn by the server: its {trial.event} went badly"
        record(registry, entry_of(verdict.what, version, standing.champion, (verdict.reason,), why))
        return True


def _runs(kind: Kind, version: Version, standing: Standing) -> bool:
    """Whether this trial runs already; raises `UserError` if it cannot begin."""
    product, trial = version.product, standing.trial
    if standing.champion is None:
        raise UserError(
            f"{product} has no champion yet, beside which a {kind} could run; promote a version with "
            f"genloom promote {product}."
        )
    if version.number == standing.champion:
        raise UserError(f"{version.name} is the champion itself; name another version with --version.")
    if trial is None:
        return False
    if (trial.event, trial.version) == (kind, version.number):
        return True
    if (trial.event, kind, trial.version) == ("shadow", "canary", version.number):
        return False
    raise UserError(
        f"A {trial.event} of {product}/{trial.version} runs; stop it first with genloom {trial.event} stop {product}."
    )
