"""A replica ends what the ledgers withdraw: within a quarter of a second, whatever else it is at.

What is under way is ended as well, with an error that says why: nothing that a withdrawn version makes may go out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event, Lock, Thread

from components.errors import WithdrawnError
from components.promotion import ledger
from components.promotion.ledger import Line, Standing
from components.serving.catalog import Catalog, Gone, Loaded, Served
from components.settings import Settings

log = logging.getLogger(__name__)
EVERY = 0.25
"""Seconds between two looks."""


class Revoker:
    """Takes from `catalog` what the ledgers of its products have withdrawn, on a thread of its own.

    Following a champion may wait for a lock, a registry or a failed try; this waits for nothing. `beside` is called
    after every look.
    """

    def __init__(
        self, catalog: Catalog, settings: Settings, beside: Callable[[], None] = lambda: None
    ) -> None:
        self.catalog, self.settings, self._beside = catalog, settings, beside
        self._seen: dict[str, tuple[int, int]] = {}
        self._blind: set[str] = set()
        self._looking, self._over = Lock(), Event()
        self._thread = Thread(target=self._run, name="revoker", daemon=True)

    def start(self) -> None:
        """Look for the first time, then go on beside everything else."""
        self._turn()
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self._turn()

    def _turn(self) -> None:
        self.look()
        try:
            self._beside()
        except Exception:  # what it tells others must not keep it from looking
            log.exception("the replica could not tell what it serves")

    def look(self) -> None:
        """Take away what is withdrawn now; what a ledger says that cannot be read is seen when it can."""
        with self._looking:
            for product, served in self.catalog.served.items():
                try:
                    self._look(product, served)
                    self._blind.discard(product)
                except Exception:  # what is served goes on, whatever is wrong with a ledger
                    self._seen.pop(product, None)
                    if product not in self._blind:
                        log.exception("what is withdrawn of %s cannot be read", product)
                    self._blind.add(product)

    def _look(self, product: str, served: Served) -> None:
        path = ledger.path_of(self.settings, product)
        try:
            found = path.stat()
        except FileNotFoundError:
            return
        mark = (found.st_mtime_ns, found.st_size)
        if self._seen.get(product) == mark:
            return
        standing = ledger.standing(ledger.read(path))
        self._seen[product] = mark
        reasons = {number: public(line, served, standing) for number, line in standing.revoked.items()}
        otherwise = f"{product} has no version that may answer; have one promoted, or ask for another model."
        for loaded in self.catalog.bar(product, reasons, otherwise):
            self._end(loaded, reasons[loaded.served.version])

    def _end(self, loaded: Loaded, why: str) -> None:
        """Close a version beside everything else, as a step of it may last."""
        log.warning("%s", why)
        self.catalog.forget(loaded)
        Thread(target=loaded.engine.close, args=(WithdrawnError(why),), name="ending", daemon=True).start()


def public(line: Line, served: Served, standing: Standing) -> str:
    """What applications are told of a version that `line` withdrew, where `served` says what follows."""
    when = line.time[:16].replace("T", " ")
    said = f"{line.product}/{line.version} was withdrawn on {when} UTC ({line.why.rstrip('.')})"
    if served.follows and standing.champions:
        return f"{said}; {line.product}/{standing.champion} takes its place, so ask again."
    if served.follows:
        return f"{said}, and no champion before it is left; have another version promoted, or ask for another model."
    return f"{said}, and this server is to serve no other; ask for another model."


def parted(served: list[Served], settings: Settings) -> tuple[list[Served], list[Gone]]:
    """What may be served, and what is withdrawn by the ledgers; one that cannot be read withdraws nothing."""
    may, gone = list[Served](), list[Gone]()
    for one in served:
        try:
            standing = ledger.standing(ledger.read(ledger.path_of(settings, one.product)))
        except Exception:
            log.exception("what is withdrawn of %s cannot be read", one.product)
            standing = Standing()
        line = standing.revoked.get(one.version)
        if line is None:
            may.append(one)
        else:
            gone.append(Gone(one, line.digest, public(line, one, standing)))
    return may, gone
