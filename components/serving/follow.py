"""A replica follows the champions: when a ledger moves one, the new version is loaded beside the old and takes over.

The ledger is the truth about promotion, and looking whether it changed costs one `stat`; so every replica, on every
node that sees the shared folder, changes over by itself within seconds. Requests under way end on the version they
began with. A version that cannot be loaded, warmed or asked gives way to the one before it, here and in the ledger.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from threading import Event, Thread

import torch

from components.artifact import read_manifest
from components.errors import FailedError, UserError
from components.filtering import open_filter
from components.promotion import ledger
from components.promotion.ledger import Standing
from components.serving import computing
from components.serving.catalog import (
    WARMING,
    Catalog,
    Loaded,
    Served,
    check_device,
    close_unwanted,
    finished,
    open_catalog,
    open_version,
)
from components.serving.course import LINGER, Course, NotNowError, Rest
from components.serving.engine import FullError
from components.serving.revoked import Revoker, parted
from components.serving.trials import Trials
from components.settings import Settings

log = logging.getLogger(__name__)
EVERY = 0.25
"""Seconds between two looks."""
AGAIN = 5.0
"""Seconds before the next look where one has failed in a way that nobody foresaw."""
PROBATION = 60.0
"""Seconds in which a new version whose engine turns sick gives way to the one before it."""
PATIENCE = 120.0
"""Seconds that a new version may take to generate when it is warm."""
STALLED = 60.0
"""Seconds of one step, begun in the probation, after which a new version gives way to the one before it."""
LOADING = 2
"""Versions that are loaded at a time, of different products."""


@dataclass
class Change:
    """A version that has taken over, the one before it, and when; `rest` is that of the old one.

    `turn` is the hash of the ledger's line that made the new one champion.
    """

    new: Loaded
    old: Loaded
    turn: str
    at: float = field(default_factory=time.monotonic)
    rest: Rest = field(default_factory=Rest)


@dataclass(frozen=True)
class Opening:
    """A version that is being loaded, because the ledger's line with the hash `turn` made it champion."""

    turn: str
    work: Future[Loaded]


class Follower:
    """Keeps the products of `catalog` that follow their champion at it, on a thread of its own."""

    def __init__(
        self, catalog: Catalog, settings: Settings, beside: Callable[[], None] = lambda: None
    ) -> None:
        self.catalog, self.settings = catalog, settings
        self._courses: dict[str, Course] = {}
        self._changes: list[Change] = []
        self._opening: dict[str, Opening] = {}
        self._loader = ThreadPoolExecutor(LOADING, "champion")
        self.trials = Trials(catalog, settings, self._open)
        self.revoker = Revoker(catalog, settings, beside)
        self._over = Event()
        self._thread = Thread(target=self._run, name="follower", daemon=True)

    def start(self) -> None:
        """Look for the first time, so that a replica never begins with an old version, then go on beside the routes."""
        self.revoker.start()
        self.look()
        self._thread.start()

    def close(self) -> None:
        """End the thread; call it before the catalog is closed."""
        self.revoker.close()
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        for product in list(self._opening):
            self._discard(product)
        self._loader.shutdown()
        self.trials.close()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            try:
                self.look(patience=0.0)
            except Exception:  # nothing would be followed any more, and nobody would see it
                log.exception("looking at the champions and trials failed; it is tried again")
                self._over.wait(AGAIN)

    def look(self, patience: float = WARMING + PATIENCE) -> None:
        """Take over what the ledgers have moved, give back what does not answer, forget what nobody needs.

        A version is loaded beside all this; it is waited for for `patience` seconds.
        """
        self.revoker.look()
        for product, served in self.catalog.served.items():
            course = self._courses.setdefault(product, Course())
            try:
                moved = course.moved(ledger.path_of(self.settings, product)) or product in self._opening
                if moved:
                    self._follow(product, served, course, patience)
            except Exception:  # what is served goes on, whatever a ledger or a registry says
                log.exception("following the champion of %s failed", product)
                course.later()
        for change in list(self._changes):
            self._watch(change)
        self.trials.look()

    def _follow(self, product: str, served: Served, course: Course, patience: float) -> None:
        lines = ledger.read(ledger.path_of(self.settings, product))
        standing, old = ledger.standing(lines), self.catalog.loaded.get(product)
        wanted = self._wanted(served, standing)
        turn = ledger.last_move(lines) if served.follows else "".join(line.hash for line in lines[-1:])
        if wanted is None or (product in self._opening and self._opening[product].turn != turn):
            self._discard(product)
        if wanted is None:
            return
        way_back = served.follows and len(standing.champions) > 1
        if turn in course.given_up:
            self._give_up(product, course, turn, way_back)
            return
        try:
            new = self.trials.canary(product, *wanted) or self._resting(product, *wanted)
            new = new or self._opened(product, served, wanted, turn, patience)
        except NotNowError as error:
            log.warning("%s/%s cannot be tried now: %s", product, wanted[0], error.__cause__)
            course.later()
            return
        except Exception as error:  # a damaged file, a model that raises or hangs: all are the version's own
            log.exception("%s/%s cannot be served", product, wanted[0])
            if course.last_try(turn):
                course.given_up[turn] = f"it could not be loaded and warmed: {error}"
                self._give_up(product, course, turn, way_back)
            else:
                course.later()
            return
        if new is None:
            return
        course.failures = 0
        self.catalog.put(product, new)
        if old is not None:
            self._changes.append(Change(new, old, turn))
        log.info("%s took over from %s/%s", new.name, product, served.version)

    def _wanted(self, served: Served, standing: Standing) -> tuple[int, str] | None:
        """The version that should answer, by its number and digest; None where none should, or it does.

        What is not to follow the champions comes back when it is withdrawn no longer.
        """
        product, gone = served.product, self.catalog.gone.get(served.product)
        if served.follows:
            stays = product in self.catalog.loaded and standing.champion == served.version
            return standing.champions[-1] if standing.champions and not stays else None
        if gone is None or served.version in standing.revoked:
            return None
        return served.version, gone.digest

    def _resting(self, product: str, number: int, digest: str) -> Loaded | None:
        """The version, where it gave way just now and is loaded still."""
        for change in self._changes:
            old = change.old
            if (product, number, digest) == (old.served.product, old.served.version, old.model.digest):
                if not old.engine.healthy:
                    continue
                self._changes.remove(change)
                return old
        return None

    def _opened(
        self, product: str, old: Served, version: tuple[int, str], turn: str, patience: float
    ) -> Loaded | None:
        """The version, by its number and digest; None while it is still loaded. Raises what loading it raises."""
        if product not in self._opening:
            self._opening[product] = Opening(turn, self._loader.submit(self._open, old, *version))
        work = self._opening[product].work
        if not wait([work], patience).done:
            return None
        del self._opening[product]
        return work.result()

    def _discard(self, product: str) -> None:
        """Load nothing any more that is not champion now."""
        if product in self._opening:
            close_unwanted(self._opening.pop(product).work)

    def _open(self, old: Served, number: int, digest: str) -> Loaded:
        """The version, loaded and checked; raises `NotNowError` for what may be otherwise the next time."""
        try:
            served = intact(self.settings, old, number, digest)
            open_filter(
                old.terms
            )  # a broken filter, a lost GPU or no compiler is this machine's fault, not the version's
            check_device(served)
            computing.check(old.product, old.terms, old.device)
        except Exception as error:
            raise NotNowError from error
        try:
            return open_checked(served, self.settings)
        except (OSError, MemoryError, torch.OutOfMemoryError, FullError) as error:
            raise NotNowError from error

    def _watch(self, change: Change) -> None:
        """Give back to the old version if the new one is sick; close the old one when it is idle for long."""
        now, product = time.monotonic(), change.new.served.product
        current = self.catalog.loaded.get(product) is change.new
        new = change.new.engine
        probation = current and now - new.stalled - change.at < PROBATION
        bad = new.sick or new.stalled > STALLED
        if probation and bad and change.old.engine.healthy and not self._over.is_set():
            self._back(product, change)
            return
        if change.rest.over(change.old.engine, LINGER) and not probation:
            self._changes.remove(change)
            if self.catalog.loaded.get(product) is not change.old:
                change.old.engine.close()
                self.catalog.forget(change.old)

    def _back(self, product: str, change: Change) -> None:
        """Answer with the old version again, and have the ledger say so at the next look."""
        self.catalog.put(product, change.old)
        self._changes.remove(change)
        self._changes.append(Change(change.old, change.new, change.turn))
        course = self._courses.setdefault(product, Course())
        course.given_up[change.turn] = "its engine kept failing or stood still after it took over"
        course.seen = None

    def _give_up(self, product: str, course: Course, turn: str, way_back: bool) -> None:
        """Write into the ledger that the version gave way, unless another replica has done so; again if that fails."""
        why = course.given_up[turn]
        if not why:
            return
        if way_back:
            from components.promotion.promote import rollback

            try:
                rollback(self.settings, product, why=f"rolled back by the server: {why}", leaving=turn)
            except Exception:  # the ledger or the registry is away: the reason is kept until they are back
                log.exception("the rollback of %s could not be written", product)
                course.later()
                return
        else:
            log.error("%s has no champion before this one, which cannot be served: %s", product, why)
        course.given_up[turn], course.failures = "", 0


def intact(settings: Settings, old: Served, number: int, digest: str) -> Served:
    """The version in the place of `old`, with the folder of its artifact, fetched unless an intact copy is there."""
    folder = settings.home / "models" / old.product / str(number)
    new = replace(old, version=number, folder=folder, created=int(time.time()))
    try:
        if read_manifest(folder)["digest"] == digest:
            return new
    except UserError:
        pass  # not there or not whole: the registry's is taken
    from components.promotion.registry import Registry

    registry = Registry(settings)
    return replace(new, folder=registry.fetch(registry.version(old.product, number)))


def open_champions(served: Sequence[Served], settings: Settings) -> Catalog:
    """The versions with those that follow at their present champion; as they were given if those cannot be had.

    A replica that Ray replaces after weeks must not depend on the version of the day it was deployed. In either case
    what is withdrawn is not opened.
    """
    try:
        may, gone = parted([_present(one, settings) for one in served], settings)
        return open_catalog(may, settings, gone)
    except Exception:
        log.exception("the present champions cannot be opened; the versions of the deployment are")
        may, gone = parted(list(served), settings)
        return open_catalog(may, settings, gone)


def _present(served: Served, settings: Settings) -> Served:
    champions = ledger.standing(ledger.read(ledger.path_of(settings, served.product))).champions
    if not served.follows or not champions or champions[-1][0] == served.version:
        return served
    return intact(settings, served, *champions[-1])


def open_checked(served: Served, settings: Settings) -> Loaded:
    """Load and warm a version, and see that what it generates is finite; raises what it raises, leaving nothing."""
    loaded = open_version(served, settings)
    try:
        body = loaded.model.modality.warm(loaded.model.shape).model_copy(update={"seed": 0})
        output = finished(loaded.engine.submit(loaded.order(body).requests), PATIENCE)
        if output.is_floating_point() and not bool(torch.isfinite(output).all()):
            raise FailedError("it generates numbers that are not finite")
    except BaseException:
        loaded.engine.close()
        raise
    return loaded
