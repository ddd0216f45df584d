"""The engine: one thread that computes a model's rows together and lets requests come and go between steps.

A new row enters as soon as a place is free, a finished one leaves at once, and nothing waits for a batch to
fill. The width is fixed, so a row's bits depend on its own request, not on its neighbours. Who listens to a
request hears of its rows of tokens after each step.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Condition, Lock, RLock, Thread
from typing import Any, TypeAlias
from weakref import WeakSet

import torch
from torch import Tensor

from components import accelerator
from components.accelerator import Device
from components.artifact import Model
from components.errors import FailedError, UserError
from components.families.family import Requests, alike, join, select
from components.families.sampling import Slots, device_of
from components.serving.listening import Listener, Look, progress
from components.serving.pace import Pace
from components.serving.placing import Entry, Job, Places, copied

log = logging.getLogger(__name__)
PATIENCE = 60.0
"""The most seconds of work that may wait before a request: more would end after its client has left."""
HUMBLE = 10
"""Steps of niceness by which an engine that works for nobody gives way to the others."""
SICK = 3
"""Steps that fail one after the other before the engine calls itself unhealthy."""
ENDING = 60.0
"""Seconds that a step may take to end after its engine was closed."""
HANGS = 300.0
"""Seconds after which a step that has not ended is taken for one that never will."""


ENGINES: WeakSet[Engine] = WeakSet()
"""The engines of this process, whose loop they share; who adds or looks holds `AMONG`."""
AMONG = Lock()
When: TypeAlias = Callable[[Callable[[], None]], object]
"""Calls what it is given, at once or soon."""


def now(call: Callable[[], None]) -> None:
    """Call it at once."""
    call()


@dataclass
class Tally:
    """What an engine has done since it began; `rows` are taken rows summed over steps, `tokens` of finished rows."""

    steps: int = 0
    rows: int = 0
    finished: int = 0
    tokens: int = 0
    failed: int = 0


class EndedError(FailedError):
    """The engine takes nothing more; another replica, or the next one of this place, may."""


class FullError(FailedError):
    """The GPU has no memory left, which is nobody's own fault: it may have some later."""


class QueueFullError(Exception):
    """More rows wait than the engine's queue holds; the client may ask again soon."""


class Engine:
    """Computes `width` rows of a model at a time; `queue` is how many rows may wait, `patience` for how many seconds.

    `threads` is torch's for the time that the engine runs; with width and device kind it decides the bits.

    A step that costs less than to wake a thread and to be woken by it is computed by the loop that asks; while no other
    engine is at work also one that costs somewhat more.
    """

    def __init__(
        self,
        model: Model,
        width: int | None = None,
        queue: int = 1024,
        threads: int = 1,
        patience: float = PATIENCE,
    ) -> None:
        self.model, self.width = model, width or model.width
        self.queue, self.threads = queue, threads
        self.patience, self._pace = patience, Pace()
        self._guard, self._turn = RLock(), Lock()
        self._change = Condition(self._guard)
        self.device: Device = accelerator.kind(device_of(model.networks))
        self._shares = self.device == "cpu" and not model.shape.vocabulary
        self._jobs: deque[Job] = deque()
        self._places = Places(self.width)
        self._slots: Slots | None = None
        self._whole: list[Job] = []
        self._failures = 0
        self._full = False
        self._closing = self._ended = False
        self._why: UserError | None = None
        self._fatal: BaseException | None = None
        self._began: float | None = None
        self.tally = Tally()
        self._thread = Thread(target=self._run, name=f"engine-{model.about.product}", daemon=True)
        self._thread.start()
        with AMONG:
            ENGINES.add(self)

    def submit(
        self,
        requests: Requests,
        listen: Listener | None = None,
        look: Look | None = None,
        when: When = now,
    ) -> Future[Tensor]:
        """The finished outputs [N,…] on the CPU, in the order of `requests`; cancelling frees their places.

        `listen` hears of every row of tokens as it grows, on the engine's thread, and may end it; `look` sees
        rows of pictures on their way. If one of them raises, the request fails. Raises `QueueFullError` if not
        all rows find room in the queue, or those before them will take too long; `EndedError` after `close`.

        `when` calls what makes an idle engine begin. A loop that goes on hands in its `call_soon`: the rows of all
        that it has to submit in this turn then start together, and nothing waits for more. Steps that are quick
        are then computed on the loop, between its other calls.
        """
        with self._guard:
            if self._closing or self._ended:
                raise self._why or EndedError("The engine is closed; ask again when the server is back.")
            waiting = self.waiting
            if waiting + len(requests) > self.queue or self._pace.wait(waiting, self.width) > self.patience:
                raise QueueFullError
            job = Job(requests, left=len(requests), listen=listen, look=look)
            self._jobs.append(job)
        when(self._wake if when is now else partial(self._here, when))
        return job.future

    def _wake(self) -> None:
        with self._change:
            self._change.notify()

    def _here(self, soon: When) -> None:
        """A step on this thread, and `soon` the next one, if steps are quick and no other thread is at it."""
        quick = self._shares and self._suits() and torch.get_num_threads() == self.threads
        over = self._fatal is not None or self._closing
        if over or not quick or not self._turn.acquire(blocking=False):
            self._wake()
            return
        try:
            self._try()
        except BaseException as error:  # it is the engine that it ends, not the loop
            self._fatal = error
            self._wake()
        finally:
            self._turn.release()
        if self._fatal is None and self.busy:
            soon(partial(self._here, soon))

    def _suits(self) -> bool:
        """Whether the next step is quick, or short while nobody else in this process computes."""
        if self._pace.quick:
            return True
        if not self._pace.short:
            return False
        with AMONG:
            others = [engine for engine in ENGINES if engine is not self]
        return not any(other.busy for other in others)

    @property
    def waiting(self) -> int:
        """Rows that have no place yet."""
        with self._guard:
            return sum(job.waiting for job in self._jobs)

    @property
    def busy(self) -> bool:
        """Whether any row is computed or waits."""
        return bool(self._places or self.waiting)

    @property
    def healthy(self) -> bool:
        """Whether the thread runs, its last steps were not all failures and none hangs."""
        runs = not self._ended and self._thread.is_alive()
        return runs and self._failures < SICK and self.stalled < HANGS

    @property
    def stalled(self) -> float:
        """Seconds for which the step under way has lasted."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def sick(self) -> bool:
        """Whether its steps keep failing or its thread has died; one that was closed is not."""
        return self._failures >= SICK or not (self._closing or self.healthy)

    def humble(self) -> None:
        """Let all other threads go first, for good, where threads have a priority of their own (Linux)."""
        thread = self._thread.native_id
        self._shares = False
        if sys.platform == "linux" and thread is not None:
            usual = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, usual + HUMBLE))

    def close(self, why: UserError | None = None) -> None:
        """End the thread; what is not finished fails, because of `why`.

        A step that takes longer than `ENDING` is left to itself.
        """
        with self._change:
            self._closing, self._why = True, self._why or why
            self._change.notify()
        self._thread.join(ENDING)
        if self._thread.is_alive():
            log.error("the engine of %s stands still; nobody waits for it any more", self.model.about.product)

    def _run(self) -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            self._work()
        except (
            BaseException
        ) as error:  # SystemExit and the like end the thread, so nobody may wait for it any more
            log.exception("the engine of %s has ended", self.model.about.product)
            self._end(_told(error))
        else:
            self._end(self._why or FailedError("The engine was closed; ask again."))
        finally:
            torch.set_num_threads(before)

    def _work(self) -> None:
        while self._wait():
            with self._turn:
                self._try()

    def _try(self) -> None:
        """A step; if it fails, all whose rows were in it are told so."""
        self._began = time.monotonic()
        try:
            self._step()
        except Exception as error:
            log.exception("a step of %s failed", self.model.about.product)
            self._slots = None
            self._note(error)
            if not self._full:  # a full GPU is no fault of the version
                self._failures += 1  # before anybody hears of it, so that who hears finds the engine as it is
            self._fail({*self._places.jobs, *self._whole}, _told(error))
            self._whole.clear()
        finally:
            self._began = None
        if self._full:  # only now nothing holds what the step had made
            self._full = False
            torch.cuda.empty_cache()

    def _note(self, error: Exception) -> None:
        """Remember to give a GPU's memory back where it was full, as other processes have models on it."""
        self._full = self._full or isinstance(error, torch.OutOfMemoryError)

    def _end(self, error: UserError) -> None:
        """Take nothing more, and tell all who wait."""
        with self._turn:
            with self._guard:
                self._ended = True
            self._slots = None
            self._fail({*self._places.jobs, *self._jobs}, error)

    def _wait(self) -> bool:
        """Sleep until there is work; False when the engine is closed. Raises what a step elsewhere has raised."""
        with self._change:
            self._change.wait_for(lambda: self._closing or self._fatal or self._jobs or self._places)
            if self._fatal is not None:
                raise self._fatal
            return not self._closing

    def _step(self) -> None:
        began, finished = time.perf_counter(), self.tally.finished
        self._drop_cancelled()
        self._admit()
        if self._slots is not None and self._places:
            taken = len(self._places)
            self._slots.advance()
            self.tally.steps += 1
            self.tally.rows += taken
            self._collect(self._slots)
            self._pace.add(time.perf_counter() - began, taken, self.tally.finished - finished)
            self._began = None  # who is told now finds the step over
            self._hand_out()

    def _hand_out(self) -> None:
        """Tell those whose rows are all there."""
        while self._whole:
            job = self._whole.pop()
            assert job.output is not None
            if job.future.set_running_or_notify_cancel():
                job.future.set_result(job.output)

    def _drop_cancelled(self) -> None:
        self._vacate(self._places.where(lambda job: job.future.cancelled()))
        with self._guard:
            if any(job.future.cancelled() for job in self._jobs):
                self._jobs = deque(job for job in self._jobs if not job.future.cancelled())

    def _vacate(self, places: list[int]) -> None:
        """Compute nothing more at `places`."""
        if places and self._slots is not None:
            self._slots.clear(places)
        self._places.free(places)

    def _admit(self) -> None:
        """Give free places to waiting rows, and start them together.

        Where that fails each is started alone, so that only the request which cannot start is told so.
        """
        entries = self._placed()
        if not entries:
            return
        try:
            self._enter(entries)
        except Exception as error:
            self._note(error)
            log.debug("rows of %s could not start together", self.model.about.product, exc_info=True)
            for entry in entries:
                self._enter_alone(entry)

    def _placed(self) -> list[Entry]:
        """The rows that have a place from now on: requests take turns, so that one of many rows holds nobody up."""
        entries: list[Entry] = []
        with self._guard:
            while self._jobs and (entry := self._places.enter(self._jobs[0])) is not None:
                entries.append(entry)
                job = self._jobs.popleft()
                if job.waiting:
                    self._jobs.append(job)
        return entries

    def _enter(self, entries: list[Entry]) -> None:
        """Start rows; those of requests that are alike together, because each start costs as much as many rows."""
        if self._slots is None:
            first = select(entries[0].job.requests, slice(0, 1))
            self._slots = Slots(self.model.family, self.model.networks, self.width, first)
        if len(entries) == 1:
            self._slots.admit(entries[0].places, entries[0].requests)
            return
        groups: dict[Any, list[Entry]] = {}
        for entry in entries:
            groups.setdefault(alike(entry.job.requests), []).append(entry)
        for group in groups.values():
            places = [place for entry in group for place in entry.places]
            self._slots.admit(places, join([entry.requests for entry in group]))

    def _enter_alone(self, entry: Entry) -> None:
        try:
            self._enter([entry])
        except Exception as error:
            self._note(error)
            log.exception("a request to %s could not start", self.model.about.product)
            self._fail({entry.job}, _told(error))

    def _collect(self, slots: Slots) -> None:
        """Tell the listeners, copy what is finished to its job and free its place."""
        counts = bool(self.model.shape.vocabulary) or any(job.listen for job in self._places.jobs)
        at = progress(slots.state, counts)
        ended = self._places.tell(slots.state, at, self._fail_one)
        if ended:
            slots.clear(ended)
        self._places.show(slots.state, at.done, self._fail_one)
        finished = [place for place, *_ in self._places if at.done[place] or place in ended]
        if not finished:
            return
        self.tally.finished += len(finished)
        if self.model.shape.vocabulary:
            self.tally.tokens += sum(at.length[place] for place in finished)
        self._failures = 0
        self._whole += self._places.give(finished, copied(slots.state.output, finished))

    def _fail_one(self, job: Job, error: Exception) -> None:
        log.exception("who follows a request to %s failed", self.model.about.product)
        self._fail({job}, _told(error))

    def _fail(self, jobs: set[Job], error: UserError) -> None:
        """Free the places of `jobs` and tell those who wait for them."""
        self._vacate(self._places.where(lambda job: job in jobs))
        with self._guard:
            self._jobs = deque(job for job in self._jobs if job not in jobs)
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                self.tally.failed += job.left
                job.future.set_exception(error)


def _told(error: BaseException) -> FailedError:
    if isinstance(error, torch.OutOfMemoryError):
        return FullError(
            "The GPU has no memory left for what the model was to generate; ask again, or for less."
        )
    return FailedError(f"The model failed while it generated ({type(error).__name__}: {error}); ask again.")
