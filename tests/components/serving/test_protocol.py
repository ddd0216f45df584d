"""Answers in one write: by a real uvicorn, whole and streamed, kept alive and closed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from components.serving.protocol import HEAD, Joined, OneWrite, install


class Pipe:
    """A transport that keeps what is written, a list of pieces a call."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, ...]] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.calls.append((data,))

    def writelines(self, pieces: tuple[bytes, ...]) -> None:
        self.calls.append(tuple(pieces))

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> str:
        return f"extra {name}"


def joined() -> tuple[Pipe, Any]:
    pipe = Pipe()
    return pipe, Joined(pipe)  # type: ignore[arg-type]


def test_a_head_goes_out_with_what_follows() -> None:
    async def write() -> Pipe:
        pipe, one = joined()
        one.write(b"HTTP/1.1 200 OK\r\n\r\n")
        assert pipe.calls == []
        one.write(b"body")
        one.write(b"more")
        await asyncio.sleep(0)
        return pipe

    assert asyncio.run(write()).calls == [(b"HTTP/1.1 200 OK\r\n\r\n", b"body"), (b"more",)]


@pytest.mark.parametrize("closes", [True, False])
def test_a_head_that_nothing_follows_goes_out_alone(closes: bool) -> None:
    async def write() -> Pipe:
        pipe, one = joined()
        one.write(HEAD + b"1 204 No Content\r\n\r\n")
        if closes:
            one.close()
        else:
            await asyncio.sleep(0)
        return pipe

    pipe = asyncio.run(write())
    assert pipe.calls == [(HEAD + b"1 204 No Content\r\n\r\n",)]
    assert pipe.closed is closes


def test_everything_else_is_the_transports_own() -> None:
    _, one = joined()
    assert one.get_extra_info("peername") == "extra peername"


async def whole(request: Request) -> Response:
    return PlainTextResponse("x" * int(request.query_params["n"]))


async def streamed(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for place in range(3):
            yield b"piece %d\n" % place
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces())


async def ask(port: int, *paths: str) -> bytes:
    """What a server answers to requests one after the other on one connection, of which the last closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for place, path in enumerate(paths):
        last = b"connection: close\r\n" if place == len(paths) - 1 else b""
        writer.write(b"GET %b HTTP/1.1\r\nhost: x\r\n%b\r\n" % (path.encode(), last))
    answer = await reader.read()
    writer.close()
    return answer


def test_a_real_server_answers_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.config.HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    monkeypatch.setattr("components.serving.protocol.HTTP_PROTOCOLS", uvicorn.config.HTTP_PROTOCOLS)
    install()
    app = Starlette(routes=[Route("/whole", whole), Route("/streamed", streamed)])
    config = uvicorn.Config(app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)

    async def run() -> bytes:
        serving = asyncio.create_task(server.serve())
        while not (server.started or serving.done()):
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        answer = await ask(port, "/whole?n=5", "/whole?n=300000", "/streamed", "/nowhere")
        server.should_exit = True
        await serving
        return answer

    answer = asyncio.run(run())
    assert config.http_protocol_class is OneWrite
    heads = [part.split(b" ", 1)[0] for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert heads == [b"200", b"200", b"200", b"404"]
    assert b"\r\n\r\nxxxxxHTTP" in answer
    assert b"x" * 300_000 + b"HTTP" in answer
    assert b"piece 0\n" in answer
    assert b"piece 2\n" in answer
    assert answer.endswith(b"Not Found")
