"""A load generator of one process: many connections that are kept open, each asking again when it is answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Load:
    """What came back: (when it was answered, seconds, status, version) of each request; `broken` had no answer."""

    answers: list[tuple[float, float, int, str]] = field(default_factory=list)
    broken: int = 0

    @property
    def failed(self) -> int:
        """Requests without an answer, or with another than 200."""
        return self.broken + sum(status != 200 for _, _, status, _ in self.answers)

    def latencies(self, inside: Callable[[float], bool] = lambda _: True) -> list[float]:
        """Seconds of the good answers that came at a time `inside` allows, sorted."""
        return sorted(seconds for at, seconds, status, _ in self.answers if status == 200 and inside(at))


def percentile(ordered: list[float], share: float) -> float:
    """Of sorted values, the one below which `share` of them lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def press(
    url: str, bodies: Iterator[dict[str, object]], connections: int, over: Callable[[], bool]
) -> Load:
    """Ask `url` over `connections` connections at once until `over`; a connection that breaks is made anew."""
    load = Load()
    await asyncio.gather(*(_client(url, bodies, over, load) for _ in range(connections)))
    return load


async def _client(
    url: str, bodies: Iterator[dict[str, object]], over: Callable[[], bool], load: Load
) -> None:
    place = urlsplit(url)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while not over():
        content = json.dumps(next(bodies)).encode()
        head = (
            f"POST {place.path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        began = time.perf_counter()
        try:
            if streams is None:
                streams = await asyncio.open_connection(place.hostname, place.port, limit=2**24)
            streams[1].write(head.encode() + content)
            status, headers = await _answer(streams[0])
        except (OSError, asyncio.IncompleteReadError, ValueError):
            load.broken += 1
            streams = None
            continue
        now = time.perf_counter()
        load.answers.append((now, now - began, status, headers.get("x-genloom-version", "")))
    if streams is not None:
        streams[1].close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """The status and the headers of an answer whose body has been read to its end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name
    }
    if "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return int(head[0].split()[1]), headers
