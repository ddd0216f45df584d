"""How a replica's server speaks HTTP: the head and the body of an answer in one write, and the application at hand.

Two writes cost this process and the proxy a system call each more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from components.serving.shortcut import Over

HEAD = b"HTTP/1."
"""What a head begins with. A body that begins so would wait for the end of the loop's turn, and lose nothing."""


class OneWrite(HttpToolsProtocol):
    """uvicorn's protocol for HTTP, which writes an answer's head when it has it and the body after it.

    What is in `over` is put before the application that the server was begun with.
    """

    over: ClassVar[tuple[Over, ...]] = ()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for over in self.over:
            self.app = over(self.app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Write through a `Joined`."""
        super().connection_made(Joined(transport))  # type: ignore[arg-type]  # it is one in all that is asked of it


class Joined:
    """A transport that keeps a head until the next piece comes, or the loop's turn ends."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def write(self, data: bytes) -> None:
        """Write `data` after the head that waits; a head waits."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines((head, data))
        elif data.startswith(HEAD):
            self._head = data
            asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close the connection after what waits was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    if not TYPE_CHECKING:  # what uvicorn asks of a transport beside these

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)


def install(*over: Over) -> None:
    """Let uvicorn's servers that begin in this process use it; Ray Serve, which begins them, has no setting for it."""
    OneWrite.over = over
    HTTP_PROTOCOLS["auto"] = f"{OneWrite.__module__}:{OneWrite.__qualname__}"
