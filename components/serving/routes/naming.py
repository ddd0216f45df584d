"""What an answer is known by: the name of its request, which its record has too."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.records import ASKING, Asking, Recorder
from components.serving.routes.paths import header_of, route_of

LONGEST = 256
"""Characters of a request's name that a record keeps."""


DIRECT = "direct"
"""What stands in the state of a request that came here past all proxies of Ray Serve, which name requests."""


class RequestName:
    """Names each answer by an `x-request-id`, the client's own or a new one, where no proxy in front does so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the header to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header_of(scope, b"x-request-id")
        name = given or secrets.token_hex(16)
        state = scope.setdefault("state", {})
        state["request"] = name
        if given is not None and not state.get(DIRECT):
            await self.app(scope, receive, send)
            return
        header = (b"x-request-id", name.encode("latin-1"))

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self.app(scope, receive, named)


class Recorded:
    """Says on whose behalf a request generates, so that a record can be kept of it."""

    def __init__(self, app: ASGIApp, recorder: Recorder) -> None:
        self.app, self.recorder = app, recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its name and its key, as those who stand before found them."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        name, key = str(state.get("request", ""))[:LONGEST], state.get("key")
        before = ASKING.set(Asking(self.recorder, name, None if key is None else key.id, route_of(scope)))
        try:
            await self.app(scope, receive, send)
        finally:
            ASKING.reset(before)
