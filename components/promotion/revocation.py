"""Which versions may not be used any more, by the ledgers alone: no registry is asked, so any process may look."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from components.errors import FailedError, WithdrawnError
from components.promotion import ledger
from components.promotion.ledger import Line, Standing
from components.settings import Settings

log = logging.getLogger(__name__)
State = Literal["champion", "canary", "shadow", "registered", "withdrawn"]


@dataclass(frozen=True)
class Status:
    """What a version is now, and since when and why if it was withdrawn; `since` is in ISO 8601."""

    state: State
    since: str = ""
    why: str = ""


def status_of(settings: Settings, product: str, number: int) -> Status:
    """What the version `product`/`number` is now: “withdrawn” if nobody may use it, however it was published.

    A version of which the ledger has nothing is “registered”. Raises `FailedError` if the ledger is broken.
    """
    standing = standing_of(settings, product)
    if (line := standing.revoked.get(number)) is not None:
        return Status("withdrawn", line.time, line.why)
    if standing.champion == number:
        return Status("champion")
    if standing.trial is not None and standing.trial.version == number:
        return Status("canary" if standing.trial.event == "canary" else "shadow")
    return Status("registered")


def standing_of(settings: Settings, product: str) -> Standing:
    """What the product's ledger adds up to; raises `FailedError` if it is broken."""
    return ledger.standing(ledger.read(ledger.path_of(settings, product)))


def told(line: Line) -> str:
    """Who withdrew a version, when and why, as the beginning of a sentence."""
    when = line.time[:16].replace("T", " ")
    return f"{line.product}/{line.version} was withdrawn on {when} UTC by {line.who} ({line.why})"


def back(line: Line, standing: Standing) -> str:
    """How the version that `line` withdrew is used again, as the end of a sentence after “or”; empty if never."""
    if line.version in standing.purged:
        return ""
    return f"lift that with genloom models restore {line.product}/{line.version} --reason “…”"


def refusal(line: Line, standing: Standing) -> WithdrawnError:
    """The error for whoever wants to use the version that `line` withdrew."""
    mend = back(line, standing)
    other = f"use another version, or {mend}" if mend else "its weights were purged, so use another version"
    return WithdrawnError(f"{told(line)}; {other}.")


def check(settings: Settings, product: str, number: int) -> None:
    """Raise `WithdrawnError` if the version may not be used."""
    standing = standing_of(settings, product)
    if (line := standing.revoked.get(number)) is not None:
        raise refusal(line, standing)


def check_digest(settings: Settings, product: str, digest: str) -> None:
    """Raise `WithdrawnError` if the artifact with this digest is a version that may not be used."""
    standing = standing_of(settings, product)
    for line in standing.revoked.values():
        if line.digest == digest:
            raise refusal(line, standing)


def data_name(dataset: str, revision: str) -> str:
    """A revision of a dataset as the ledger names it."""
    return f"{dataset}@{revision}"


def barred(settings: Settings) -> Mapping[str, Line]:
    """The revisions of data, by `data_name`, for which versions of any product are withdrawn now.

    A broken ledger says nothing here: it stops its own product, and not all others.
    """
    found: dict[str, Line] = {}
    for product in ledger.products(settings):
        try:
            lines = standing_of(settings, product).revoked.values()
        except FailedError as error:
            log.warning("What data are withdrawn for %s is not known: %s", product, error)
            continue
        found |= {line.data: line for line in lines if line.data}
    return found


def check_data(settings: Settings, dataset: str, revision: str) -> None:
    """Raise `WithdrawnError` if versions were withdrawn because of this revision of the data."""
    line = barred(settings).get(data_name(dataset, revision))
    if line is not None:
        raise WithdrawnError(
            f"The data {dataset} at revision {revision[:12]} may not be used: {told(line)}; change the data, or lift "
            f"that with genloom models restore --dataset {dataset}@{revision[:12]} --reason “…”."
        )
