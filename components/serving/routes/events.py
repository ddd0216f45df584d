"""What the routes of text and of pictures share: work beside the loop, and events from an engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send
from torch import Tensor

from components.errors import FailedError, WithdrawnError
from components.serving.catalog import Loaded
from components.serving.routes.errors import WITHDRAWN, content
from components.serving.routes.models import headers

T = TypeVar("T")
Waiting: TypeAlias = asyncio.Queue[T | None]
"""What an engine has told and nobody has sent; None is the end."""


class EventStream(StreamingResponse):
    """Server-sent events whose computation ends with them, also where the client leaves before."""

    def __init__(
        self, events: AsyncIterator[bytes], work: Future[Tensor], headers: Mapping[str, str]
    ) -> None:
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; afterwards nothing is computed for them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.work.cancel()


async def aside(small: bool, work: Callable[[], T]) -> T:
    """`work` done here where it is small, else on a thread, so that other requests go on.

    Going to a thread and back waits twice for the interpreter's lock, which the engine's thread wants as well.
    """
    return work() if small else await asyncio.to_thread(work)


async def done(work: Future[Tensor]) -> Tensor:
    """What comes of `work`; a caller that is cancelled cancels it.

    As `asyncio.wrap_future`, which wakes the loop by a pipe also where the loop itself has finished the work.
    """
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def tell() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def over(_: Future[Tensor]) -> None:
        if asyncio._get_running_loop() is loop:
            tell()
        else:
            with suppress(RuntimeError):  # the loop has ended, and who waited with it
                loop.call_soon_threadsafe(tell)

    work.add_done_callback(over)
    try:
        await waiter
    except asyncio.CancelledError:
        work.cancel()
        raise
    return work.result()


async def opened(
    submit: Callable[[Callable[[T], None]], Future[Tensor]],
) -> tuple[T | None, Waiting[T], Future[Tensor]]:
    """The first of what an engine tells, the queue of what follows, which None ends, and the work.

    `submit` is given what to tell, on the engine's thread. What fails before the first is raised; a caller that is
    cancelled meanwhile cancels the work.
    """
    loop = asyncio.get_running_loop()
    queue: Waiting[T] = asyncio.Queue()

    def give(told: T) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, told)

    def over(_: Future[Tensor]) -> None:
        with suppress(RuntimeError):  # the loop has ended, and who waited with it
            loop.call_soon_threadsafe(queue.put_nowait, None)

    work = submit(give)
    work.add_done_callback(over)
    try:
        first = await queue.get()
    except asyncio.CancelledError:
        work.cancel()
        raise
    if first is None:
        work.result()
    return first, queue, work


def told(error: BaseException) -> Mapping[str, Any]:
    """The object that tells a client why its stream ends early."""
    if isinstance(error, WithdrawnError):
        return content(503, str(error), WITHDRAWN)
    known = isinstance(error, FailedError)
    return content(500, str(error) if known else "The server failed; its log says why.", "generation_failed")


def kept(loaded: Loaded, seed: int) -> dict[str, str]:
    """The headers of a stream."""
    return {"cache-control": "no-cache", **headers(loaded, seed)}
