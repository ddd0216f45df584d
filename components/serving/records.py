"""Records of requests: by whom, to which version, with which seed, and the hashes of what was asked and what came.

A line is what is needed to show later that a picture or a text came from here, and to make it again. What was asked
itself is kept only where the product says `records: full`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor

from components.accelerator import Device
from components.errors import UserError
from components.serving.lines import Days, Gathered, line, moment, prune
from components.settings import Settings
from components.terms import Precision

if TYPE_CHECKING:
    from components.serving.catalog import Loaded

log = logging.getLogger(__name__)
SMALL, HELD = 2**16, 2**26
"""Bytes of what a record is made of that are hashed at once, and of all that wait for the thread which hashes the rest.

More are dropped, as no request waits.
"""
NUMBER = 8
"""Bytes of a value that is no text."""
IDLE = 600.0
"""Seconds after which it is looked whether a new day has begun, on which old records are deleted."""
LONG = 4096
"""Characters of one text in a full record; of a longer one, and of an uploaded file, the hash is kept."""
HASHED = "sha256:"
NOTHING_ASKED = hashlib.sha256(b"{}").hexdigest()
"""What is asked where every field is at its default."""
UNASKED = frozenset({"stream", "stream_options", "partial_images", "model", "seed"})
"""Fields that change how an answer is sent and not what is in it, and the seed, which a record has for itself."""


@dataclass
class Record:
    """One request. `asked` and `content` are sha256; `content` is of the finished rows, None where there are none.

    `at` is when it came, in ISO 8601; `body` is None unless the product keeps whole records. It is not frozen, as
    one is made of every request: that would take three times as long. What has no `packed` is older than that.
    """

    at: str
    request: str
    key: str | None
    route: str
    product: str
    version: int
    artifact: str
    width: int
    threads: int
    seed: int
    rows: int
    outcome: str
    seconds: float
    asked: str
    content: str | None
    body: dict[str, Any] | None = None
    precision: Precision = "fp32"
    compile: bool = False
    device: Device = "cpu"
    packed: bool = False


class Make(NamedTuple):
    """What makes a record, and how many bytes it keeps in memory."""

    record: Callable[[], Record]
    size: int


class Recorder:
    """Writes records into `folder`/PRODUCT/DAY.jsonl, and deletes those older than `days`.

    What keeps much memory is made and written on a thread of its own, the rest at once: to keep it until later costs
    more than to hash it.
    """

    def __init__(self, folder: Path, days: int) -> None:
        self.folder, self.days = folder, days
        self._products: dict[str, Gathered] = {}
        self._waiting: SimpleQueue[Make | None] = SimpleQueue()
        self._held, self._lock = 0, Lock()
        self._pruned = ""
        self._thread = Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def put(self, make: Callable[[], Record], size: int = 0) -> None:
        """Make a record, now or soon, and write it soon; `make` keeps `size` bytes in memory until then."""
        if size <= SMALL:
            self._keep(make)
        elif self._held and self._held + size > HELD:
            log.error("a record was lost: the disk is too slow, or the answer too large to wait for it")
        else:
            self._hold(size)
            self._waiting.put(Make(make, size))

    def _hold(self, size: int) -> None:
        with self._lock:
            self._held += size

    def close(self) -> None:
        """Write what waits and end the thread; doing it again changes nothing."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        for lines in list(self._products.values()):
            lines.flush()

    def _run(self) -> None:
        while True:
            self._prune()
            with suppress(Empty):
                make = self._waiting.get(timeout=IDLE)
                if make is None:
                    return
                self._keep(make.record)
                self._hold(-make.size)

    def _prune(self) -> None:
        """Delete what is too old, once a day; also of products that nobody asks any more."""
        day = datetime.now(UTC).date().isoformat()
        if day == self._pruned:
            return
        self._pruned = day
        try:
            for folder in self.folder.glob("*/"):
                prune(folder, self.days)
        except OSError:
            log.exception("the oldest records could not be deleted")

    def _keep(self, make: Callable[[], Record]) -> None:
        try:
            record = make()
            content = vars(record)
            if not record.body:
                del content["body"]
            self._of(record.product).add(line(content))
        except Exception:
            log.exception("a record could not be made")

    def _of(self, product: str) -> Gathered:
        with self._lock:
            if product not in self._products:
                self._products[product] = Gathered(Days(self.folder / product, self.days))
            return self._products[product]


class Asking(NamedTuple):
    """The HTTP request on whose behalf something is generated, and who keeps its record."""

    recorder: Recorder
    request: str
    key: str | None
    route: str

    def follow(self, loaded: Loaded, body: BaseModel, seed: int, rows: int, work: Future[Tensor]) -> None:
        """Keep a record once `work` is over, as the version's product wants it."""
        if loaded.served.terms.records == "none":
            return
        began, at = time.perf_counter(), time.time()

        def over(done: Future[Tensor]) -> None:
            seconds = round(time.perf_counter() - began, 6)
            left = done.cancelled()
            output = None if left or done.exception() is not None else done.result()
            outcome = "left" if left else "failed" if output is None else "done"
            self.recorder.put(
                lambda: self._record(loaded, body, seed, rows, outcome, output, at, seconds),
                held(output, body),
            )

        work.add_done_callback(over)

    def _record(
        self,
        loaded: Loaded,
        body: BaseModel,
        seed: int,
        rows: int,
        outcome: str,
        output: Tensor | None,
        at: float,
        seconds: float,
    ) -> Record:
        content, served = asked(body), loaded.served
        return Record(
            at=moment(at),
            request=self.request,
            key=self.key,
            route=self.route,
            product=served.product,
            version=served.version,
            artifact=loaded.model.digest,
            width=loaded.engine.width,
            threads=loaded.engine.threads,
            seed=seed,
            rows=rows,
            outcome=outcome,
            seconds=seconds,
            asked=digest_of(content),
            content=None if output is None else content_hash(output),
            body=_shortened(content) if served.terms.records == "full" else None,
            precision=served.terms.precision,
            compile=served.terms.compile,
            device=loaded.engine.device,
            packed=not served.terms.compile,
        )


ASKING: ContextVar[Asking | None] = ContextVar("asking", default=None)
"""The request that this task answers; None outside a server that keeps records."""


def held(output: Tensor | None, body: BaseModel) -> int:
    """The bytes that a request keeps in memory: its rows, and the texts and files that were sent with it."""
    return (0 if output is None else output.nbytes) + sum(
        _size(getattr(body, name)) for name in body.model_fields_set
    )


def _size(value: Any) -> int:
    match value:
        case bytes() | str():
            return len(value)
        case BaseModel():
            return sum(_size(getattr(value, name)) for name in value.model_fields_set)
        case [int() | float(), *_]:  # all of them are numbers
            return NUMBER * len(value)
        case list() | tuple():
            return sum(map(_size, value))
        case dict():
            return sum(map(_size, value.values()))
    return NUMBER


def asked(body: BaseModel) -> dict[str, Any]:
    """What decides the content of an answer, beside its seed: the fields that are not at their defaults."""
    if body.model_fields_set <= UNASKED:
        return {}
    content = body.model_dump(exclude_defaults=True)
    return {name: value for name, value in content.items() if name not in UNASKED}


def digest_of(content: dict[str, Any]) -> str:
    """The sha256 of a request's content, in hex."""
    if not content:
        return NOTHING_ASKED
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_hashed).encode()).hexdigest()


def _hashed(value: Any) -> str:
    """What stands for an uploaded file."""
    return f"{HASHED}{hashlib.sha256(value).hexdigest()}" if isinstance(value, bytes) else str(value)


def content_hash(output: Tensor) -> str:
    """The sha256 of finished rows, in hex: of their type, their shape and their bytes."""
    digest = hashlib.sha256(_about(output.dtype, output.shape))
    digest.update(output.contiguous().numpy().data)
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _about(kind: torch.dtype, shape: torch.Size) -> bytes:
    return f"{kind} {tuple(shape)} ".encode()


def folder_of(settings: Settings, product: str | None = None) -> Path:
    """Where the records of a product lie, or of all; all nodes of a cluster see it."""
    folder = settings.shared / "records"
    return folder if product is None else folder / product


def read(folder: Path) -> Iterator[Record]:
    """The records in a product's folder, the newest first; a line that a crash cut short is passed over."""
    for path in sorted(folder.glob("*.jsonl"), reverse=True):
        for written in reversed(path.read_text(encoding="utf-8", errors="replace").split("\n")):
            try:
                yield Record(**json.loads(written))
            except (ValueError, TypeError):
                continue


def find(settings: Settings, product: str, request: str) -> Record:
    """The record of a request by its `x-request-id`; raises `UserError` if there is none."""
    folder = folder_of(settings, product)
    found = next((record for record in read(folder) if record.request == request), None)
    if found is None:
        raise UserError(
            f"There is no record of a request {request!r} to {product}; see genloom records list {product}."
        )
    return found


def _shortened(value: Any) -> Any:
    """`value` with the sha256 of files, and of texts that are too long to keep."""
    match value:
        case str() if len(value) > LONG:
            return _hashed(value.encode("utf-8", "surrogatepass"))
        case bytes():
            return _hashed(value)
        case dict():
            return {name: _shortened(part) for name, part in value.items()}
        case list() | tuple():
            return [_shortened(part) for part in value]
    return value
