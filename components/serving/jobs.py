"""Long work: jobs that generate in bulk, each a folder that all replicas see and that outlives every process.

`job.json` says what was ordered and never changes. `state.json` is written by the one process that runs jobs
(components/serving/bulk.py), `cancel` by whoever wants it to end; a finished shard is a file of its final name. So
nobody overwrites what another has written, and a job goes on from its folder alone.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from components import files
from components.errors import UserError
from components.terms import USUAL, Terms

Status = Literal["queued", "running", "done", "failed", "cancelled"]
OVER = frozenset({"done", "failed", "cancelled"})
MOST = 10_000_000
"""The most rows of a job."""
OPEN = 16
"""Jobs of one key that are not over."""
ALL_OPEN = 256
"""Jobs of all keys that are not over."""
LINGER = 600.0
"""Seconds after which nobody writes into a job any more that was cancelled while it ran."""
WORKERS = 64
"""The most processes that generate for one job."""
SMALLEST, LARGEST, PARTS = 128, 8192, 64
"""Rows of a shard, and how many shards a job is cut into where its rows allow that."""
ID = re.compile(r"job-[0-9a-f]{12}-[0-9a-f]{8}")
JOB, STATE, CANCEL, DATA = "job.json", "state.json", "cancel", "data"


class UnknownJobError(UserError):
    """There is no such job, or none that this key may see; HTTP 404."""


class TooManyJobsError(UserError):
    """As many jobs as there may be are not over yet; HTTP 429."""


class JobRequest(BaseModel):
    """The body of `POST /v1/jobs`: `request` has the fields that the model's own requests take."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: int = Field(ge=1, le=MOST)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    request: dict[str, Any] = {}
    workers: int = Field(default=1, ge=1, le=WORKERS)


class Job(BaseModel):
    """What was ordered: row i has the seed of the job + i, whoever computes it and how often it is interrupted.

    `rows` are those of a shard, `at_once` those of one request to the engine; `key` is the id of the key that
    ordered it, `created` in seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    created: float
    key: str | None
    product: str
    version: int
    digest: str
    artifact: Path
    media_type: str
    n: int
    seed: int
    request: dict[str, Any]
    rows: int
    at_once: int
    workers: int
    terms: Terms = USUAL

    @property
    def shards(self) -> int:
        """How many files there will be."""
        return -(-self.n // self.rows)

    def shard(self, place: int) -> range:
        """The rows of shard `place`."""
        return range(place * self.rows, min((place + 1) * self.rows, self.n))


class State(BaseModel):
    """How far a job is; `attempts` are those since a shard was finished, `rate` is rows a second of this attempt."""

    model_config = ConfigDict(frozen=True)

    status: Status = "queued"
    done: int = 0
    rate: float | None = None
    started: float | None = None
    finished: float | None = None
    attempts: int = 0
    error: str | None = None


def part(place: int) -> str:
    """The name of the file of shard `place`."""
    return f"part-{place:05d}.parquet"


def rows_of(n: int) -> int:
    """Rows of a shard of a job of `n`: few enough to see how it goes, and no more files than a folder bears."""
    return max(SMALLEST, min(LARGEST, -(-n // PARTS)))


class Jobs:
    """The jobs in `folder`; `wake` tells the process that runs them that there is something to do."""

    def __init__(self, folder: Path, wake: Callable[[], None] = lambda: None) -> None:
        self.folder, self.wake = folder, wake
        self._over: dict[str, Status] = {}

    def lock(self) -> FileLock:
        """What whoever counts the open jobs holds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder / ".lock")

    def create(self, job: Job) -> None:
        """Put a job into the queue; raises `TooManyJobsError`, and `UserError` for what no file can hold."""
        try:
            content = job.model_dump_json(indent=2)
        except PydanticSerializationError as error:
            raise UserError(
                "The “request” holds half a character (a lone surrogate); send whole text."
            ) from error
        with self.lock():
            running = [other.key for other in self.open()]
            if running.count(job.key) >= OPEN or len(running) >= ALL_OPEN:
                most = OPEN if running.count(job.key) >= OPEN else ALL_OPEN
                raise TooManyJobsError(
                    f"There are {most} jobs that are not over; wait for one, or cancel one."
                )
            with files.draft(self.folder / job.id) as draft:
                (draft / DATA).mkdir(parents=True)
                (draft / JOB).write_text(content, encoding="utf-8")

    def get(self, name: str) -> tuple[Job, State]:
        """The job of that id and how far it is. Raises `UnknownJobError`."""
        if not ID.fullmatch(name):
            raise UnknownJobError("There is no such job; GET /v1/jobs lists those there are.")
        folder = self.folder / name
        try:
            job = Job.model_validate_json((folder / JOB).read_bytes())
        except (OSError, ValidationError) as error:
            raise UnknownJobError(f"There is no job {name}; GET /v1/jobs lists those there are.") from error
        try:
            state = State.model_validate_json((folder / STATE).read_bytes())
        except (FileNotFoundError, ValidationError):  # of a machine that lost its power it may be empty
            state = State()
        if self.cancelled(name) and state.status not in OVER:
            status = "failed" if state.error else "cancelled"
            state = state.model_copy(update={"status": status, "rate": None})
        return job, state

    def ids(self) -> list[str]:
        """All jobs, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((path.name for path in self.folder.iterdir() if ID.fullmatch(path.name)), reverse=True)

    def open(self) -> Iterator[Job]:
        """The jobs that are not over, the oldest first; those that are over are read once."""
        for name in reversed(self.ids()):
            if name not in self._over and self._noted(name) in ("queued", "running"):
                yield self.get(name)[0]

    def cancel(self, name: str) -> tuple[Job, State]:
        """Have a job end; one that is over stays as it is. Raises `UnknownJobError`."""
        _, state = self.get(name)
        if state.status not in OVER:
            (self.folder / name / CANCEL).touch()
        return self.get(name)

    def cancelled(self, name: str) -> bool:
        """Whether somebody wants the job to end."""
        return (self.folder / name / CANCEL).exists()

    def prune(self, before: float) -> list[str]:
        """Remove the jobs that were over `before`, in seconds since the epoch, with their shards; their ids."""
        with self.lock():
            gone = [
                name for name in self.ids() if (ended := self._ended(name)) is not None and ended < before
            ]
            for name in gone:
                (self.folder / name).rename(self.folder / f".{name}-gone")  # out of every list at one stroke
        for hidden in self.folder.glob(".job-*-gone"):  # and those of a command that was killed
            shutil.rmtree(hidden, ignore_errors=True)
        return gone

    def _ended(self, name: str) -> float | None:
        """When a job was over, in seconds since the epoch; None while it is not, or may still be written to."""
        try:
            _, state = self.get(name)
        except UnknownJobError:  # what cannot be read is of no use any more
            return (self.folder / name).stat().st_mtime
        if state.status not in OVER:
            return None
        if state.finished is None:
            # cancelled: at once if it had not begun, else when who runs it has seen that
            asked = (self.folder / name / CANCEL).stat().st_mtime
            return asked if state.started is None else asked + LINGER
        return state.finished

    def counts(self) -> dict[Status, int]:
        """How many jobs there are of each status; those that are over are read once."""
        found = Counter(self._over.get(name) or self._noted(name) for name in self.ids())
        return {status: found[status] for status in get_args(Status)}

    def _noted(self, name: str) -> Status | None:
        """The status of a job; None of one that was pruned meanwhile."""
        try:
            _, state = self.get(name)
        except UnknownJobError:
            return None
        if state.status in OVER:
            self._over[name] = state.status
        return state.status

    def keep(self, name: str, state: State) -> None:
        """Write how far a job is; for the process that runs it."""
        files.write(self.folder / name / STATE, state.model_dump_json(), sync=True)

    def data(self, job: Job) -> Path:
        """The folder of the shards, in which there is nothing else to read."""
        return self.folder / job.id / DATA

    def missing(self, job: Job) -> list[int]:
        """The shards that are not there yet."""
        there = {path.name for path in self.data(job).iterdir()}
        return [place for place in range(job.shards) if part(place) not in there]


def new_id() -> str:
    """An id that sorts by time."""
    return f"job-{int(time.time() * 1000):012x}-{secrets.token_hex(4)}"
