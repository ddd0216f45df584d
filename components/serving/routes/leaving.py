"""A request ends when its client has left, or when it has taken as long as any may.

Ray Serve can look after both, at the price of a task and some turns of the loop for every request. Past it
(components/serving/shortcut.py) this does, and begins to look only at requests that take long.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Literal

from starlette.types import Message, Receive, Scope, Send

from components.serving.haproxy import SILENCE
from components.serving.routes.errors import answer, content

SOON = 0.05
"""Seconds after which a request is looked at; most have their answer before."""
LONGEST = float(SILENCE)
"""Seconds that a request may take."""
SLOW = "The body came too slowly; send it at once, or a smaller one."
LATE = "The request took longer than the server allows; ask for less."


class Leaving:
    """One request: whether its body comes in time, what is sent, and whether anybody waits for it."""

    def __init__(self, receive: Receive, send: Send, longest: float = LONGEST) -> None:
        self.receive, self._send, self.longest = receive, send, longest
        self.began = self.ended = self.events = False
        self.why: Literal["gone", "late", "slow"] | None = None
        self.arriving: float | None = None
        """By the loop's clock, when the body must be there; None once it is, and nobody else receives."""
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, message: Message) -> None:
        """Hand a part of the answer on."""
        self.began = True
        if message["type"] == "http.response.start":
            self.events = any(
                name == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message["headers"]
            )
        await self._send(message)
        self.ended = message["type"] == "http.response.body" and not message.get("more_body")

    async def attend(self, scope: Scope, answering: Callable[[Send], Awaitable[None]]) -> None:
        """Wait for `answering`, given where to send; it is cancelled when nobody waits for it any more.

        What takes too long is answered with 408, or where a stream of events has begun with an event that says so.
        """
        task = asyncio.current_task()
        assert task is not None
        self._look_soon(task)
        try:
            await answering(self.send)
        except asyncio.CancelledError:
            if self.why is None or task.uncancel():
                raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._watch is not None:
                self._watch.cancel()
        if self.why == "slow":
            refusal = answer(408, SLOW, "too_slow", headers={"connection": "close"})
            await refusal(scope, self.receive, self._send)
        elif self.why == "late" and not self.began:
            await answer(408, LATE, "timeout")(scope, self.receive, self._send)
        elif self.why == "late" and self.events and not self.ended:
            event = b"data: %b\n\n" % json.dumps(content(408, LATE, "timeout")).encode()
            await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def _look_soon(self, task: asyncio.Task[object]) -> None:
        self._timer = asyncio.get_running_loop().call_later(SOON, self._begin, task)

    def _begin(self, task: asyncio.Task[object]) -> None:
        """Look for the client, who is heard by nobody else once the body is there; before, look at the clock."""
        loop = asyncio.get_running_loop()
        if self.arriving is None:
            self._watch = loop.create_task(self._look(task))
        elif loop.time() < self.arriving:
            self._look_soon(task)
        else:
            self.why = "slow"
            task.cancel()

    async def _look(self, task: asyncio.Task[object]) -> None:
        try:
            async with asyncio.timeout(self.longest - SOON):
                while (await self.receive())["type"] != "http.disconnect":
                    pass
            self.why = "gone"
        except TimeoutError:
            self.why = "late"
        except Exception:  # a connection that broke in its own way
            self.why = "gone"
        if self.ended:  # the connection waits for its next request
            self.why = None
        else:
            task.cancel()
