"""Bodies as they come in: at most so large, in at most so long, and at most so much of them in memory together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.routes.errors import answer
from components.serving.routes.leaving import Leaving
from components.serving.routes.paths import header_of, route_of

LARGEST = 2**20
"""Bytes of a request's body."""
LARGEST_UPLOAD = 2**25
"""Bytes of a body with pictures."""
IN_FLIGHT = 2**27
"""Bytes of all bodies together whose requests are under way."""
SECONDS = 20.0
"""How long a body may take to arrive, beside the time that its bytes have by `RATE`."""
RATE = 2**16
"""The bytes a second at which a large body must arrive."""


class RefusedError(Exception):
    """The body is not taken; `response` says why."""

    def __init__(self, response: JSONResponse) -> None:
        super().__init__()
        self.response = response


class GoneError(Exception):
    """The client has left before its body was there."""


@dataclass
class Room:
    """The bytes of bodies that a replica holds, of at most `most`."""

    most: int = IN_FLIGHT
    taken: int = 0

    def take(self, size: int) -> None:
        """Make room for `size` bytes; raises `RefusedError` where there is none now."""
        if self.taken + size > self.most:
            message = "The server holds as many bodies as it can; send this again in a second."
            raise RefusedError(answer(503, message, "too_many_bodies", headers={"retry-after": "1"}))
        self.taken += size

    def give(self, size: int) -> None:
        """Let go of `size` bytes."""
        self.taken -= size


class Bodies:
    """The middleware that reads each body whole, before its route does, or refuses it.

    413 for a body that is too large, whether or not that was announced; 408 for one that is too slow, after which the
    connection is closed; 503 where the others leave no room. What is held is let go with the answer's end, because
    pictures wait as long as their request does.
    """

    def __init__(self, app: ASGIApp, uploads: frozenset[str], room: Room, seconds: float = SECONDS) -> None:
        self.app, self.uploads, self.room, self.seconds = app, uploads, room, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the body on in one piece."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = LARGEST_UPLOAD if route_of(scope) in self.uploads else LARGEST
        hold, leaving = Hold(self.room), Leaving(receive, send)

        async def answering(send: Send) -> None:
            body = await self._read(leaving, most, _announced(scope), hold)
            await self.app(scope, _replayed(body, receive), send)

        try:
            await leaving.attend(scope, answering)
        except RefusedError as refused:
            await refused.response(scope, receive, send)
        except GoneError:
            return
        finally:
            hold.release()

    async def _read(self, leaving: Leaving, most: int, announced: int, hold: Hold) -> bytes:
        if announced > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size, more = 0, True
        leaving.arriving = asyncio.get_running_loop().time() + self.seconds
        while more:
            part, more = await _part(leaving.receive)
            parts.append(part)
            size += len(part)
            if size > most:
                raise _too_large(most)
            hold.reach(size)
            leaving.arriving += len(part) / RATE
        leaving.arriving = None
        return b"".join(parts)


class Hold:
    """What one request takes of a `Room`."""

    def __init__(self, room: Room) -> None:
        self.room, self.size = room, 0

    def reach(self, size: int) -> None:
        """Hold `size` bytes at least; raises `RefusedError`."""
        if size > self.size:
            self.room.take(size - self.size)
            self.size = size

    def release(self) -> None:
        """Hold nothing any more."""
        self.room.give(self.size)
        self.size = 0


async def _part(receive: Receive) -> tuple[bytes, bool]:
    """A piece of the body, and whether there are more."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise GoneError
    return message.get("body", b""), bool(message.get("more_body"))


def _announced(scope: Scope) -> int:
    said = header_of(scope, b"content-length") or ""
    return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else 0


def _too_large(most: int) -> RefusedError:
    return RefusedError(answer(413, f"The body is larger than {most} bytes; send less.", "too_large"))


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What gives `body` once and then whatever the client does."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay
