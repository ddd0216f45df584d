"""One version that is tried beside its champion in a replica: who gets it, and what becomes of what it is asked."""

from __future__ import annotations

import hashlib
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from components.families.family import Requests
from components.modalities.completion import TextBody
from components.promotion.canary import Names, criteria_of
from components.promotion.ledger import Line
from components.promotion.tally import Tally, together
from components.serving.catalog import Loaded, Watch
from components.serving.engine import FullError, QueueFullError
from components.serving.writing import prepare

log = logging.getLogger(__name__)
PATIENCE = 120.0
"""Seconds that a probe may take."""
STUCK = 30.0
"""Seconds in which an engine with work must make a step."""


class Trial:
    """`loaded` beside `champion`, as the ledger's `line` has it; `theirs` is the champion's tally, `ours` the other.

    A thread of its own, which nobody waits for, probes both and asks a shadow.
    """

    def __init__(self, line: Line, loaded: Loaded, champion: Loaded, seed: int = 0) -> None:
        self.line, self.loaded, self.champion = line, loaded, champion
        self.criteria = criteria_of(line.terms)
        self.names = Names(champion.name, loaded.name)
        self.ours, self.theirs = Tally(), Tally()
        self.stuck = False
        self._lock = Lock()
        self._hand = ThreadPoolExecutor(1, "trial")
        self._probing: Future[None] | None = None
        self._mirroring: Future[None] | None = None
        self._seed, self._probed = seed, 0.0
        if line.event == "shadow":
            loaded.engine.humble()

    @property
    def canary(self) -> bool:
        """Whether it answers, and is not only asked."""
        return self.line.event == "canary"

    @property
    def minutes(self) -> float:
        """How long the trial has run, by the ledger."""
        began = datetime.fromisoformat(self.line.time)
        return (datetime.now(UTC) - began).total_seconds() / 60

    @property
    def asked(self) -> Loaded:
        """The version on trial; what is submitted by this is counted."""
        return replace(self.loaded, watch=self._counts(self.ours))

    @property
    def usual(self) -> Loaded:
        """The champion; what is submitted by this is counted."""
        return replace(self.champion, watch=self._counts(self.theirs))

    def takes(self, key: str) -> bool:
        """Whether who has this key is in the share; the same key always is, and in another trial another share."""
        digest = hashlib.sha256(f"{key}\n{self.line.hash}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.criteria.share * 2**64

    def fault(self, error: Exception) -> None:
        """Count a request that the champion answered and this version did not."""
        log.warning("%s did not answer what %s did", self.loaded.name, self.champion.name, exc_info=error)
        with self._lock:
            self.ours.failed += 1

    def mirror(self, body: Any, seed: int) -> None:
        """Ask the shadow what the champion was asked, unless it has something to do already or the trial is over."""
        waiting = self._mirroring is not None and not self._mirroring.done()
        if waiting or self.loaded.engine.busy:
            with self._lock:
                self.ours.dropped += 1
            return
        with suppress(RuntimeError):  # the trial was closed while the champion answered
            self._mirroring = self._hand.submit(self._mirror, body.model_copy(update={"seed": seed}))

    def _mirror(self, body: Any) -> None:
        loaded = self.asked
        try:
            if isinstance(body, TextBody):
                prepare(loaded, body).submit()
            else:
                order = loaded.order(body)
                loaded.submit(body, order.requests, order.seeds[0])
        except QueueFullError:
            with self._lock:
                self.ours.dropped += 1
        except Exception as error:
            self.fault(error)

    def look(self, every: float) -> None:
        """Probe from time to time, and see whether the engine goes on."""
        now = time.monotonic()
        self.stuck = self.loaded.engine.stalled > STUCK
        idle = self._probing is None or self._probing.done()
        if idle and now - self._probed >= every:
            self._probed = now
            self._probing = self._hand.submit(self._probe)

    def _probe(self) -> None:
        """Let both versions generate from the same seeds, other ones each time, and keep how varied it is."""
        seed, self._seed = self._seed, (self._seed + 1000) % 2**52
        found = [_probed(loaded, seed) for loaded in (self.champion, self.loaded)]
        if any(isinstance(one, Exception) for one in found):
            if isinstance(found[1], Exception) and not isinstance(found[1], QueueFullError):
                self.fault(found[1])
            return
        varied = [_variety(*pair) for pair in zip((self.champion, self.loaded), found, strict=True)]
        with self._lock:  # for which requests wait
            for tally, variety in zip((self.theirs, self.ours), varied, strict=True):
                tally.probe(variety)

    def tallies(self) -> tuple[Tally, Tally]:
        """The champion's and the other's as they are now, to be read at leisure."""
        with self._lock:
            return together([self.theirs]), together([self.ours])

    def close(self) -> None:
        """Ask and probe no more."""
        self._hand.shutdown(wait=False, cancel_futures=True)

    def _counts(self, tally: Tally) -> Watch:
        def watch(requests: Requests, seconds: float, done: Future[Tensor]) -> None:
            if done.cancelled() or isinstance(done.exception(), FullError):  # no fault of the version
                return
            with self._lock:
                if done.exception() is None:
                    tally.answer(size_of(requests), seconds)
                else:
                    tally.failed += 1

        return watch


def _variety(loaded: Loaded, output: Tensor | Exception) -> list[float] | None:
    """How varied a probe's rows are; None where they are no numbers."""
    assert isinstance(output, Tensor)
    sound = not output.is_floating_point() or bool(torch.isfinite(output).all())
    return loaded.model.modality.variety(output) if sound else None


def _probed(loaded: Loaded, seed: int) -> Tensor | Exception:
    model = loaded.model
    try:
        order = loaded.order(model.modality.probe(model.shape, seed))
        return loaded.engine.submit(order.requests).result(PATIENCE)
    except Exception as error:
        return error


def size_of(requests: Requests) -> str:
    """What is compared in latency: requests whose rows, steps and prompts are as many, to a factor of two."""
    counts = (requests.options[name] for name in ("max_tokens", "steps") if name in requests.options)
    steps = next((int(count.sum()) for count in counts), len(requests))
    given = requests.prompt if requests.source is None else requests.source
    read = 0 if given is None else given.shape[1]
    return f"{steps.bit_length()}.{read.bit_length()}"
