"""Requests as an engine holds them: which of their rows have a place, what their listeners hear, what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias

from torch import Tensor

from components.families.family import Requests, State, select
from components.serving.listening import Glimpse, Listener, Look, Progress, Span, read


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


class Entry(NamedTuple):
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


Fail: TypeAlias = Callable[[Job, Exception], None]
"""Ends a request whose listener has failed, and frees its places."""


class Places:
    """Which request's row each of `width` places holds."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._taken: dict[int, tuple[Job, int]] = {}
        self._heard = [0] * width

    def __len__(self) -> int:
        """How many are taken."""
        return len(self._taken)

    def __iter__(self) -> Iterator[tuple[int, Job, int]]:
        """(place, request, its row) of each that is taken, in order."""
        return iter([(place, *self._taken[place]) for place in sorted(self._taken)])

    def holds(self, place: int) -> bool:
        """Whether the place is taken."""
        return place in self._taken

    @property
    def jobs(self) -> set[Job]:
        """The requests that have rows here."""
        return {job for job, _ in self._taken.values()}

    def where(self, wanted: Callable[[Job], bool]) -> list[int]:
        """The places of the requests that are `wanted`."""
        return [place for place, job, _ in self if wanted(job)]

    def enter(self, job: Job) -> Entry | None:
        """Give free places to rows of `job` that wait; None where there are none."""
        free = self.width - len(self._taken)
        rows = range(job.entered, min(job.entered + free, len(job.requests)))
        if not rows:
            return None
        places = list(islice((place for place in range(self.width) if place not in self._taken), len(rows)))
        for place, row in zip(places, rows, strict=True):
            self._taken[place], self._heard[place] = (job, row), 0
        job.entered = rows.stop
        return Entry(job, places, rows)

    def free(self, places: Collection[int]) -> None:
        """Make room at `places`."""
        for place in places:
            self._taken.pop(place, None)

    def give(self, places: Sequence[int], outputs: Tensor) -> list[Job]:
        """Hand the finished rows [N,…] at `places` to their requests; those that are whole by it."""
        whole = []
        for place, output in zip(places, outputs.chunk(len(places)), strict=True):
            taken = self._taken.pop(place)
            _give(*taken, output)
            if not taken[0].left:
                whole.append(taken[0])
        return whole

    def tell(self, state: State, at: Progress, fail: Fail) -> list[int]:
        """Tell the listeners what their rows gained; the places of those that want no more."""
        told = []
        for place, job, row in self:
            heard, length = self._heard[place], at.length[place]
            if job.listen and (length > heard or at.finish[place]):
                told.append((job, Span(place, row, heard, length, at.finish[place])))
                self._heard[place] = length
        if not told:
            return []
        ended: list[int] = []
        news = read(state, [span for _, span in told], [job.requests for job, _ in told], at.newest)
        for (job, span), item in zip(told, news, strict=True):
            try:
                if self.holds(span.place) and job.listen and job.listen(item):
                    ended.append(span.place)
            except Exception as error:
                fail(job, error)
        return ended

    def show(self, state: State, done: list[int], fail: Fail) -> None:
        """Give those who look at their rows what they want to see after this step."""
        looked = [(place, job, row, job.look) for place, job, row in self if job.look]
        if not looked:
            return
        steps = state.step.tolist()
        for place, job, row, look in looked:
            final = bool(done[place])
            if not final and steps[place] not in look.steps:
                continue
            try:
                if self.holds(place):  # not where a row before this one made the request fail
                    look.tell(Glimpse(row, state.output[place].cpu().clone(), final))
            except Exception as error:
                fail(job, error)


def copied(output: Tensor, places: list[int]) -> Tensor:
    """The rows at `places`, ascending, on the CPU; what comes after may be written over them."""
    first, last = places[0], places[-1]
    if last - first + 1 == len(places):
        return output[first : last + 1].to("cpu", copy=True)
    return output[places].cpu()


def _give(job: Job, row: int, output: Tensor) -> None:
    """The finished row [1,…] of a job."""
    if len(job.requests) == 1:
        job.output = output
    else:
        if job.output is None:
            job.output = output.new_empty(len(job.requests), *output.shape[1:])
        job.output[row] = output[0]
    job.left -= 1
