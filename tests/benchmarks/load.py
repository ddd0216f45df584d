"""A load generator of one process: many connections that are kept open, each asking again when it is answered.

`press` is such a closed loop; `pour` asks at a fixed rate, whether or not anything has been answered.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Bodies = Iterator[dict[str, object]]
TRIAL = "GENLOOM_BENCH_SECONDS"
"""The variable that makes every row so short, to see that it works; such rows are not kept."""
ENDING = 2048
"""Bytes of a stream's end that are looked at."""
BUSY = (429, 503)
"""The statuses that ask a client to come again."""


def seconds(usual: float) -> float:
    """How long to measure."""
    return min(usual, float(os.environ[TRIAL])) if os.environ.get(TRIAL) else usual


@dataclass
class Load:
    """What came back: (when it was answered, seconds, status, version) of each request.

    `lost` are (when it was asked, when it ended) of those that had no answer, `malformed` refusals that are not
    in OpenAI's shape or do not say when to come again, each with its beginning.
    """

    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    lost: list[tuple[float, float]] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests without an answer, or with another than 200."""
        return len(self.lost) + sum(status != 200 for _, _, status, _ in self.answers)

    @property
    def asked(self) -> int:
        """All requests."""
        return len(self.lost) + len(self.answers)

    def failures(self) -> list[tuple[float, float]]:
        """When each failed request was asked and when it ended."""
        return [*self.lost, *((at - took, at) for at, took, status, _ in self.answers if status != 200)]

    def latencies(self, inside: Callable[[float], bool] = lambda _: True) -> list[float]:
        """Seconds of the good answers that came at a time `inside` allows, sorted."""
        return sorted(took for at, took, status, _ in self.answers if status == 200 and inside(at))

    def keep(self, began: float, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Remember an answer."""
        now = time.perf_counter()
        self.answers.append((now, now - began, status, headers.get("x-genloom-version", "")))
        if status != 200 and not well_formed(status, headers, body):
            self.malformed.append(f"{status} {body[:80]!r}")


def well_formed(status: int, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a refusal is an error in OpenAI's shape, and says when to come again where that helps."""
    try:
        fields = set(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return False
    return fields == {"message", "type", "param", "code"} and (status not in BUSY or "retry-after" in headers)


def percentile(ordered: list[float], share: float) -> float:
    """Of sorted values, the one below which `share` of them lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def press(
    url: str, bodies: Bodies, connections: int, over: Callable[[], bool], load: Load | None = None
) -> Load:
    """Ask `url` over `connections` connections at once until `over`; a connection that breaks is made anew.

    What comes back is told to `load` as it comes, if one is given.
    """
    load = load if load is not None else Load()
    await asyncio.gather(*(_client(url, bodies, over, load) for _ in range(connections)))
    return load


async def pour(url: str, bodies: Bodies, rate: float, lasting: float) -> Load:
    """Ask `url` `rate` times a second for `lasting` seconds, and wait for all answers."""
    load, idle, began = Load(), list[Stream](), time.perf_counter()
    asking: set[asyncio.Task[None]] = set()
    for number in range(int(rate * lasting)):
        if (early := began + number / rate - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        task = asyncio.create_task(_once(url, next(bodies), idle, load))
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)
    for _, writer in idle:
        writer.close()
    return load


async def _once(url: str, body: Mapping[str, object], idle: list[Stream], load: Load) -> None:
    """One request, over a connection that is idle or a new one."""
    stream = await _asked(url, body, idle.pop() if idle else None, load)
    if stream is not None:
        idle.append(stream)


async def _client(url: str, bodies: Bodies, over: Callable[[], bool], load: Load) -> None:
    stream: Stream | None = None
    while not over():
        stream = await _asked(url, next(bodies), stream, load)
    if stream is not None:
        stream[1].close()


async def _asked(url: str, body: Mapping[str, object], stream: Stream | None, load: Load) -> Stream | None:
    """Ask and keep what comes; the connection for the next request, if it can take one."""
    began = time.perf_counter()
    try:
        stream = stream or await connected(url)
        stream[1].write(written(url, body))
        status, headers, content = await _answer(stream[0])
    except (OSError, asyncio.IncompleteReadError, ValueError):
        load.lost.append((began, time.perf_counter()))
        return None
    load.keep(began, status, headers, content)
    if headers.get("connection") == "close":
        stream[1].close()
        return None
    return stream


async def connected(url: str) -> Stream:
    """A new connection to the server of `url`."""
    place = urlsplit(url)
    return await asyncio.open_connection(place.hostname, place.port, limit=2**24)


def written(url: str, body: Mapping[str, object]) -> bytes:
    """A request as it goes over the wire."""
    place, content = urlsplit(url), json.dumps(body).encode()
    head = (
        f"POST {place.path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name
    }
    return int(head[0].split()[1]), headers


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers and the body of an answer."""
    status, headers = await read_head(reader)
    if "content-length" in headers:
        return status, headers, await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, b"".join([piece async for piece in pieces(reader)])
    return status, headers, b""


async def pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The pieces of a chunked body."""
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


@dataclass
class Told:
    """A stream of text: when it was asked, when its first piece came, when it ended, its tokens."""

    began: float
    first: float
    ended: float
    tokens: int


async def listen(url: str, body: Mapping[str, object], leave_after: int | None = None) -> Told | None:
    """Ask for a stream and read it; with `leave_after` leave after so many pieces, or None if it was refused."""
    began = time.perf_counter()
    reader, writer = await connected(url)
    writer.write(written(url, body))
    try:
        if (await read_head(reader))[0] != 200:
            return None
        first, last, count = 0.0, b"", 0
        async for piece in pieces(reader):
            first, last, count = first or time.perf_counter(), (last + piece)[-ENDING:], count + 1
            if leave_after is not None and count >= leave_after:
                return Told(began, first, time.perf_counter(), 0)
        return Told(began, first, time.perf_counter(), tokens_of(last))
    finally:
        writer.close()


def tokens_of(ending: bytes) -> int:
    """The tokens that the last events of a stream say were drawn, in its usage."""
    for event in reversed(ending.split(b"\n\n")):
        data = event.removeprefix(b"data: ")
        if data.startswith(b"{") and (usage := json.loads(data).get("usage")):
            return int(usage["completion_tokens"])
    return 0
