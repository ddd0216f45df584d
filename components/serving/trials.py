"""A replica follows the ledgers' trials: it loads the version, lets it answer or asks it in secret, and concludes.

All replicas count for themselves, write what they have seen to the shared folder, and judge by the sum; the ledger's
lock decides whose verdict is written. A version that fails its canary is left at once, before the ledger has it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from components.promotion import ledger
from components.promotion.canary import Verdict, decide
from components.promotion.ledger import Line
from components.serving import tallies
from components.serving.catalog import Catalog, Loaded, Served, close_unwanted
from components.serving.course import LINGER, Course, NotNowError, Rest
from components.serving.tallies import Seen
from components.serving.trial import Trial
from components.settings import Settings

log = logging.getLogger(__name__)
EVERY = 1.0
"""Seconds between two looks at the tallies of all replicas."""
PROBE = 10.0
"""Seconds between two probes."""

Open = Callable[[Served, int, str], Loaded]
"""Loads and checks a version by number and digest, to be served as another one is."""


@dataclass
class Leaving:
    """A trial that is over."""

    trial: Trial
    rest: Rest = field(default_factory=Rest)


class Trials:
    """Keeps the trials in `catalog` as the ledgers have them; `look` is called from one thread."""

    def __init__(self, catalog: Catalog, settings: Settings, opener: Open) -> None:
        self.catalog, self.settings, self._open = catalog, settings, opener
        self.replica = secrets.token_hex(4)
        self._courses: dict[str, Course] = {}
        self._wanted: dict[str, Line | None] = {}
        self._opening: dict[str, tuple[Line, Future[Loaded]]] = {}
        self._leaving: list[Leaving] = []
        self._counted = 0.0
        self._loader = ThreadPoolExecutor(1, "challenger")

    def look(self) -> None:
        """Begin, judge and end trials."""
        now = time.monotonic()
        count = now - self._counted >= EVERY
        self._counted = now if count else self._counted
        for product, champion in list(self.catalog.loaded.items()):
            if champion.served.follows:
                course = self._courses.setdefault(product, Course())
                try:
                    self._go_on(product, champion, course, count)
                except Exception:  # what is served goes on, whatever a ledger or a registry says
                    log.exception("the trial of %s cannot go on", product)
                    course.later()
        for leaving in list(self._leaving):
            self._let_go(leaving)

    def canary(self, product: str, number: int, digest: str) -> Loaded | None:
        """The version, where it runs as a canary: it is loaded and warm, and may be made champion as it is."""
        left = [leaving.trial for leaving in self._leaving if leaving.trial.loaded.served.product == product]
        for trial in (*left, *filter(None, [self.catalog.trials.get(product)])):
            found = trial.loaded
            same = (found.served.version, found.model.digest) == (number, digest)
            if trial.canary and same and found.engine.healthy:
                self._leaving = [one for one in self._leaving if one.trial is not trial]
                return found
        return None

    def close(self) -> None:
        """End the trials; their engines are the catalog's, but for those that nobody has taken over."""
        for product in list(self._opening):
            self._discard(product)
        self._loader.shutdown()
        for product in list(self.catalog.trials):
            self._end(product)

    def _go_on(self, product: str, champion: Loaded, course: Course, count: bool) -> None:
        path = ledger.path_of(self.settings, product)
        if course.moved(path):
            self._wanted[product] = ledger.standing(ledger.read(path)).trial
        wanted, trial = self._wanted.get(product), self.catalog.trials.get(product)
        if wanted is not None and wanted.champion != champion.served.version:
            wanted = None  # the follower is not there yet
        if wanted is not None and wanted.hash in course.given_up:
            self._withdraw(product, wanted, course)
            wanted = None
        if trial is not None and (
            wanted is None or trial.line.hash != wanted.hash or trial.champion is not champion
        ):
            self._end(product)
            trial = None
        if wanted is None:
            self._discard(product)
        elif trial is None:
            self._begin(product, wanted, champion, course)
        else:
            self._judge(product, trial, course, count)

    def _discard(self, product: str) -> None:
        """Close what is loaded for a trial that is over already."""
        if product in self._opening:
            close_unwanted(self._opening.pop(product)[1])

    def _begin(self, product: str, line: Line, champion: Loaded, course: Course) -> None:
        """Load the version beside everything else; when it is there, try it."""
        if time.monotonic() < course.again:
            return
        if product not in self._opening:
            work = self._loader.submit(self._open, champion.served, line.version, line.digest)
            self._opening[product] = (line, work)
        began, future = self._opening[product]
        if not future.done():
            return
        del self._opening[product]
        try:
            loaded = future.result()
        except NotNowError as error:
            log.warning("%s/%s cannot be tried now: %s", product, line.version, error.__cause__)
            course.later()
            return
        except Exception as error:
            log.exception("%s/%s cannot be tried", product, began.version)
            if course.last_try(began.hash):
                course.given_up[began.hash] = f"It could not be loaded and warmed: {error}"
            else:
                course.later()
            return
        if began.hash != line.hash:
            loaded.engine.close()
            return
        course.failures = 0
        tallies.forget_others(self.settings, product, line.hash)
        self.catalog.begin(product, Trial(line, loaded, champion, secrets.randbelow(2**40)))
        log.info("%s is tried as a %s beside %s", loaded.name, line.event, champion.name)

    def _judge(self, product: str, trial: Trial, course: Course, count: bool) -> None:
        """See how it goes and act on it."""
        turn = trial.line.hash
        trial.look(PROBE)
        if trial.loaded.engine.sick:
            course.given_up[turn] = f"The engine of {trial.loaded.name} kept failing."
        elif trial.stuck:
            course.given_up[turn] = f"The engine of {trial.loaded.name} stands still."
        elif count:
            verdict = self._verdict(product, trial)
            if verdict.what == "withdraw":
                course.given_up[turn] = verdict.reason
            elif verdict.what == "promote" and time.monotonic() >= course.again:
                self._conclude(product, turn, verdict)
        if turn in course.given_up:
            self._end(product)  # nobody is sent there from now on, whether or not the ledger can be written
            self._withdraw(product, trial.line, course)

    def _verdict(self, product: str, trial: Trial) -> Verdict:
        """What all replicas together have seen; a shadow is withdrawn only for numbers that are not finite."""
        self._write(product, trial)
        champion, challenger = tallies.sides(tallies.read(self.settings, product, trial.line.hash))
        verdict = decide(trial.criteria, champion, challenger, trial.minutes, trial.names)
        if trial.canary or challenger.broken:
            return verdict
        return Verdict("wait", verdict.reason)

    def _write(self, product: str, trial: Trial) -> None:
        tallies.write(self.settings, product, Seen(trial.line.hash, self.replica, *trial.tallies()))

    def _withdraw(self, product: str, line: Line, course: Course) -> None:
        """Write into the ledger why the trial is over, unless that is done; again later if it fails."""
        reason = course.given_up[line.hash]
        if not reason or time.monotonic() < course.again:
            return
        self._conclude(product, line.hash, Verdict("withdraw", reason))
        course.given_up[line.hash], course.failures = "", 0

    def _conclude(self, product: str, turn: str, verdict: Verdict) -> None:
        from components.promotion.trials import conclude

        decided = conclude(self.settings, product, turn, verdict)
        log.info("%s: %s, %s", product, verdict.what if decided else "decided already", verdict.reason)

    def _end(self, product: str) -> None:
        """Send nobody there any more; what is under way ends as it began."""
        trial = self.catalog.trials[product]
        self.catalog.end(product)
        trial.close()
        try:
            self._write(product, trial)
        except OSError:  # the last of many tallies; the version must be let go all the same
            log.exception("the last tally of %s could not be written", trial.loaded.name)
        if self.catalog.loaded.get(product) is not trial.loaded:
            if trial.stuck:
                self.catalog.forget(trial.loaded)  # its thread cannot be ended, so nobody may wait for that
            else:
                self._leaving.append(Leaving(trial))

    def _let_go(self, leaving: Leaving) -> None:
        """Close a version when it is idle for long."""
        engine = leaving.trial.loaded.engine
        if leaving.rest.over(engine, LINGER):
            self._leaving.remove(leaving)
            engine.close()
            self.catalog.forget(leaving.trial.loaded)
