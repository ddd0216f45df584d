"""A replica follows the champions: when a ledger moves one, the new version is loaded beside the old and takes over.

The ledger is the truth about promotion, and looking whether it changed costs one `stat`; so every replica, on every
node that sees the shared folder, changes over by itself within seconds. Requests under way end on the version they
began with. A version that cannot be loaded, warmed or asked gives way to the one before it, here and in the ledger.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from threading import Event, Thread

import torch

from components.artifact import read_manifest
from components.errors import FailedError, UserError
from components.promotion import ledger
from components.serving.catalog import Catalog, Loaded, Served, open_version
from components.settings import Settings

log = logging.getLogger(__name__)
EVERY = 0.25
"""Seconds between two looks."""
LINGER = 10.0
"""Seconds without a row after which a version that gave way is taken out of memory."""
PROBATION = 60.0
"""Seconds in which a new version whose engine turns unhealthy gives way to the one before it."""


@dataclass
class Change:
    """A version that has taken over, the one before it, and when; `idle` is since when the old one computes nothing."""

    new: Loaded
    old: Loaded
    at: float = field(default_factory=time.monotonic)
    idle: float | None = None


class Follower:
    """Keeps the products of `catalog` that follow their champion at it, on a thread of its own."""

    def __init__(self, catalog: Catalog, settings: Settings) -> None:
        self.catalog, self.settings = catalog, settings
        self._seen: dict[str, tuple[int, int]] = {}
        self._given_up: set[tuple[str, int]] = set()
        self._changes: list[Change] = []
        self._over = Event()
        self._thread = Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Look for the first time, so that a replica never begins with an old version, then go on beside the routes."""
        self._look_safely()
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self._look_safely()

    def _look_safely(self) -> None:
        try:
            self.look()
        except Exception:  # what is served goes on, whatever a ledger or a registry says
            log.exception("following the champions failed")

    def look(self) -> None:
        """Take over what the ledgers have moved, give back what does not answer, forget what nobody needs."""
        for product, loaded in list(self.catalog.loaded.items()):
            if loaded.served.follows and self._moved(product):
                self._follow(product)
        for change in list(self._changes):
            self._watch(change)

    def _moved(self, product: str) -> bool:
        try:
            found = ledger.path_of(self.settings, product).stat()
        except FileNotFoundError:
            return False
        seen = (found.st_mtime_ns, found.st_size)
        if self._seen.get(product) == seen:
            return False
        self._seen[product] = seen
        return True

    def _follow(self, product: str) -> None:
        standing = ledger.standing(ledger.read(ledger.path_of(self.settings, product)))
        old = self.catalog.loaded[product]
        if not standing.champions or standing.champion == old.served.version:
            return
        number, digest = standing.champions[-1]
        if (product, number) in self._given_up:
            return
        try:
            new = open_checked(self._served(product, number, digest), self.settings)
        except (
            Exception
        ) as error:  # a damaged artifact, no memory, a model that raises: all are no reason to end
            log.exception("%s/%s cannot be served", product, number)
            self._give_up(product, number, f"it could not be loaded and warmed: {error}")
            return
        self.catalog.put(product, new)
        self._changes.append(Change(new, old))
        log.info("%s/%s took over from %s/%s", product, number, product, old.served.version)

    def _served(self, product: str, number: int, digest: str) -> Served:
        """The version with the folder of its artifact, fetched unless an intact copy is there."""
        folder = self.settings.home / "models" / product / str(number)
        try:
            if read_manifest(folder)["digest"] == digest:
                return Served(product, number, folder, int(time.time()), follows=True)
        except UserError:
            pass  # not there or not whole: the registry's is taken
        from components.promotion.registry import Registry

        registry = Registry(self.settings)
        folder = registry.fetch(registry.version(product, number))
        return Served(product, number, folder, int(time.time()), follows=True)

    def _watch(self, change: Change) -> None:
        """Give back to the old version if the new one does not answer; close the old one when it is idle for long."""
        now, product = time.monotonic(), change.new.served.product
        current = self.catalog.loaded.get(product) is change.new
        if current and not change.new.engine.healthy and now - change.at < PROBATION:
            self.catalog.put(product, change.old)
            self._changes.remove(change)
            self._changes.append(Change(change.old, change.new))
            self._give_up(product, change.new.served.version, "its engine kept failing after it took over")
            return
        if change.old.engine.busy:
            change.idle = None
        elif change.idle is None:
            change.idle = now
        probation = current and now - change.at < PROBATION
        if change.idle is not None and now - change.idle >= LINGER and not probation:
            self._changes.remove(change)
            if self.catalog.loaded.get(product) is not change.old:
                change.old.engine.close()
                self.catalog.forget(change.old)

    def _give_up(self, product: str, number: int, cause: str) -> None:
        """Write into the ledger that the version gave way, unless another replica has done so."""
        self._given_up.add((product, number))
        from components.promotion.promote import rollback

        try:
            rollback(self.settings, product, why=f"rolled back by the server: {cause}", leaving=number)
        except (
            UserError
        ) as error:  # there is no champion before it: what is served stays, and the log says so
            log.error("%s/%s stays champion and is not served: %s", product, number, error)


def open_checked(served: Served, settings: Settings) -> Loaded:
    """Load and warm a version, and see that what it generates is finite; raises what it raises, leaving nothing."""
    loaded = open_version(served, settings)
    try:
        body = loaded.model.modality.warm(loaded.model.shape).model_copy(update={"seed": 0})
        output = loaded.engine.submit(loaded.order(body).requests).result()
        if output.is_floating_point() and not bool(torch.isfinite(output).all()):
            raise FailedError("it generates numbers that are not finite")
    except BaseException:
        loaded.engine.close()
        raise
    return loaded
