"""Requests as an engine holds them: which of their rows have a place, and what has come of them."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from components.families.family import Requests, select
from components.serving.listening import Listener, Look


@dataclass(eq=False)
class Job:
    """One submitted request: `entered` of its rows have a place or are done, `left` are not finished."""

    requests: Requests
    left: int
    listen: Listener | None = None
    look: Look | None = None
    entered: int = 0
    output: Tensor | None = None
    future: Future[Tensor] = field(default_factory=Future)

    @property
    def waiting(self) -> int:
        """Rows that have no place yet."""
        return len(self.requests) - self.entered


@dataclass(frozen=True)
class Entry:
    """The `rows` of a request that are given `places`."""

    job: Job
    places: list[int]
    rows: range

    @property
    def requests(self) -> Requests:
        """Those rows."""
        every = self.job.requests
        return (
            every if len(self.rows) == len(every) else select(every, slice(self.rows.start, self.rows.stop))
        )


def copied(output: Tensor, places: list[int]) -> Tensor:
    """The rows at `places`, ascending, on the CPU; what comes after may be written over them."""
    first, last = places[0], places[-1]
    if last - first + 1 == len(places):
        return output[first : last + 1].to("cpu", copy=True)
    return output[places].cpu()


def give(job: Job, row: int, output: Tensor) -> None:
    """The finished row [1,…] of a job."""
    if len(job.requests) == 1:
        job.output = output
    else:
        if job.output is None:
            job.output = output.new_empty(len(job.requests), *output.shape[1:])
        job.output[row] = output[0]
    job.left -= 1
