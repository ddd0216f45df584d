"""Which version answers now, as every replica says of itself into a folder that all of them share.

No replica is asked: the proxy hands a question to one of them, and a replica that sleeps must not be woken by it.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import files
from components.serving.catalog import Catalog
from components.serving.trial import Trial
from components.settings import Settings

BEAT = 2.0
"""Seconds after which a replica says again what it said before."""
STALE = 10.0
"""Seconds after which a replica that says nothing new is taken for one that has ended."""


@dataclass(frozen=True)
class Answering:
    """What one replica answers a product with: `version` None where it was `withdrawn`, for that reason.

    `share` is of those who ask that the canary answers, or that the shadow is asked. `at` is in seconds since the
    epoch.
    """

    product: str
    version: int | None
    follows: bool
    canary: int | None
    shadow: int | None
    share: float | None
    withdrawn: str | None
    application: str
    replica: str
    node: str
    at: float


class Presence:
    """Leaves what `catalog` answers with in the file of the replica `name` of an application."""

    def __init__(self, catalog: Catalog, settings: Settings, application: str, name: str) -> None:
        self.catalog, self.application, self.name = catalog, application, name
        self.file = folder_of(settings) / f"{name}.json"
        self._said: list[dict[str, Any]] | None = None
        self._at = 0.0

    def tell(self) -> None:
        """Write what has changed, or the same again from time to time."""
        now = time.time()
        said = [{**asdict(one), "at": 0.0} for one in self._answering()]
        if said == self._said and now - self._at < BEAT:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files.write(self.file, json.dumps([{**one, "at": now} for one in said]))
        self._said, self._at = said, now

    def leave(self) -> None:
        """Take the file away, as the replica ends."""
        self.file.unlink(missing_ok=True)

    def _answering(self) -> Iterator[Answering]:
        catalog = self.catalog
        for product, served in catalog.served.items():
            loaded, gone = catalog.loaded.get(product), catalog.gone.get(product)
            trial = catalog.trials.get(product)
            version = None if loaded is None else loaded.served.version
            why = None if gone is None or loaded is not None else gone.why
            yield Answering(
                product,
                version,
                served.follows,
                *_tried(trial if version is not None else None),
                why,
                self.application,
                self.name,
                socket.gethostname(),
                0.0,
            )


def _tried(trial: Trial | None) -> tuple[int | None, int | None, float | None]:
    """The canary, the shadow, and the share of what is tried."""
    if trial is None or not trial.loaded.engine.healthy:
        return None, None, None
    number, share = trial.loaded.served.version, trial.criteria.share
    return (number, None, share) if trial.canary else (None, number, share)


def read(settings: Settings) -> list[Answering]:
    """What the replicas that run say, by product and replica; what is damaged or old is passed over."""
    found = []
    for path in sorted(folder_of(settings).glob("*.json")):
        try:
            said = [Answering(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            continue
        found += [one for one in said if time.time() - one.at < STALE]
    return sorted(found, key=lambda one: (one.product, one.application, one.replica))


def sweep(settings: Settings) -> None:
    """Remove what replicas left that were killed."""
    for path in folder_of(settings).glob("*.json"):
        try:
            if time.time() - path.stat().st_mtime > 6 * STALE:
                path.unlink()
        except FileNotFoundError:  # its replica has just left
            continue


def left(settings: Settings, product: str, number: int, patience: float) -> tuple[int, int]:
    """Wait until no replica answers with a version, at most `patience` seconds.

    Returns how many replicas serve the product, and how many of them still answer with that version.
    """
    late = time.monotonic() + patience
    while True:
        serving = [one for one in read(settings) if one.product == product]
        still = [one for one in serving if number in (one.version, one.canary, one.shadow)]
        if not still or time.monotonic() >= late:
            return len(serving), len(still)
        time.sleep(0.1)


def folder_of(settings: Settings) -> Path:
    """Where the replicas of all applications say it; all nodes of a cluster see it."""
    return settings.shared / "live"
