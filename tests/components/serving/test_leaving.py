"""When a request ends before its answer: its client has left, or it takes too long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Send

from components.serving.routes.leaving import SOON, Leaving

Answering = Callable[[Send], Awaitable[None]]
HEAD: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"whole"}
PART: Message = {"type": "http.response.body", "body": b"a part", "more_body": True}


class Client:
    """What it got; it leaves when `leave` is set."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.leave = asyncio.Event()

    async def receive(self) -> Message:
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.got.append(message)

    async def asks(self, answering: Answering, longest: float = 30.0) -> None:
        await Leaving(self.receive, self.send, longest).attend({"type": "http", "method": "GET"}, answering)


async def quick(send: Send) -> None:
    await send(HEAD)
    await send(BODY)


async def endless(send: Send) -> None:
    await asyncio.Event().wait()


async def begun(send: Send) -> None:
    await send(HEAD)
    await send(PART)
    await asyncio.Event().wait()


def test_who_answers_soon_is_not_looked_at() -> None:
    async def run() -> tuple[list[Message], bool]:
        client, looked = Client(), asyncio.Event()

        async def receive() -> Message:
            looked.set()
            return await Client.receive(client)

        client.receive = receive  # type: ignore[method-assign]

        async def soon(send: Send) -> None:
            await asyncio.sleep(0)
            await quick(send)

        await client.asks(soon)
        await asyncio.sleep(2 * SOON)
        return client.got, looked.is_set()

    assert asyncio.run(run()) == ([HEAD, BODY], False)


@pytest.mark.parametrize(("answering", "got"), [(endless, []), (begun, [HEAD, PART])])
def test_an_answer_that_nobody_waits_for_is_cancelled(answering: Answering, got: list[Message]) -> None:
    async def run() -> list[Message]:
        client = Client()
        asyncio.get_running_loop().call_later(2 * SOON, client.leave.set)
        async with asyncio.timeout(10):
            await client.asks(answering)
            await asyncio.sleep(0)  # whose task goes on, as nobody else has cancelled it
        return client.got

    assert asyncio.run(run()) == got


def test_what_takes_too_long_is_408() -> None:
    async def run() -> list[Message]:
        client = Client()
        await client.asks(endless, longest=2 * SOON)
        return client.got

    head, body = asyncio.run(run())
    assert head["status"] == 408
    assert b"took longer than the server allows" in body["body"]


def test_an_answer_that_has_begun_and_takes_too_long_ends() -> None:
    async def run() -> list[Message]:
        client = Client()
        await client.asks(begun, longest=2 * SOON)
        return client.got

    assert asyncio.run(run()) == [HEAD, PART]


def test_a_stream_that_takes_too_long_ends_with_an_event_that_says_so() -> None:
    opening: Message = {**HEAD, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]}

    async def stream(send: Send) -> None:
        await send(opening)
        await send(PART)
        await asyncio.Event().wait()

    async def run() -> list[Message]:
        client = Client()
        await client.asks(stream, longest=2 * SOON)
        return client.got

    *before, last = asyncio.run(run())
    assert before == [opening, PART]
    assert not last["more_body"]
    event = last["body"].decode()
    assert event.endswith("\n\n")
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "timeout"


def test_a_client_that_has_its_answer_may_leave_while_something_is_still_to_be_done() -> None:
    async def run() -> tuple[list[Message], list[str]]:
        client, did = Client(), list[str]()

        async def late(send: Send) -> None:
            await asyncio.sleep(2 * SOON)
            await quick(send)
            client.leave.set()
            await asyncio.sleep(SOON)
            did.append("the rest")

        await client.asks(late)
        return client.got, did

    assert asyncio.run(run()) == ([HEAD, BODY], ["the rest"])


def test_a_connection_that_breaks_is_one_that_is_left() -> None:
    async def run() -> list[Message]:
        client = Client()

        async def receive() -> Message:
            raise OSError("broken")

        client.receive = receive  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            await client.asks(endless)
        return client.got

    assert asyncio.run(run()) == []


def test_who_is_cancelled_by_somebody_else_is_cancelled() -> None:
    async def run() -> None:
        client = Client()
        task = asyncio.create_task(client.asks(endless))
        await asyncio.sleep(2 * SOON)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_body_that_is_still_coming_is_not_mistaken_for_leaving() -> None:
    async def run() -> list[Message]:
        client = Client()
        parts: list[Any] = [{"type": "http.request", "body": b"x", "more_body": True}] * 3

        async def receive() -> Message:
            return parts.pop() if parts else await Client.receive(client)

        client.receive = receive  # type: ignore[method-assign]

        async def slow(send: Send) -> None:
            await asyncio.sleep(3 * SOON)
            await quick(send)

        await client.asks(slow)
        return client.got

    assert asyncio.run(run()) == [HEAD, BODY]
