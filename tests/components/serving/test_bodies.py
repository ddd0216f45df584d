"""Bodies that are slow, huge, without an end, deep, or too many at a time; and the pages of /docs."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving import metrics
from components.serving.catalog import Catalog
from components.serving.jobs import Jobs
from components.serving.metrics import Metrics
from components.serving.routes.application import create_app
from components.serving.routes.bodies import LARGEST, Bodies, Room

UPLOAD = "/v1/images/edits"


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that says how long its body is."""
    message = await receive()
    content = str(len(message["body"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": content})


async def asked(
    app: ASGIApp, receive: Receive, path: str = "/", headers: dict[str, str] | None = None
) -> list[Message]:
    """What `app` sends to a client whose body comes by `receive`."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await app({"type": "http", "path": path, "method": "POST", "headers": raw}, receive, send)
    return sent


def given(*parts: bytes, end: bool = True, pause: float = 0.0) -> Receive:
    """A client that sends `parts`, and then ends its body or is silent."""
    waiting = list(parts)

    async def receive() -> Message:
        await asyncio.sleep(pause)
        if not waiting:
            await asyncio.Event().wait()
        part = waiting.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(waiting) or not end}

    return receive


def guard(room: Room | None = None, seconds: float = 0.2) -> Bodies:
    return Bodies(told, frozenset({UPLOAD}), room or Room(), seconds)


def status(sent: list[Message]) -> int:
    return int(sent[0]["status"])


def test_a_body_in_parts_arrives_whole_and_its_room_is_given_back() -> None:
    room = Room()
    sent = asyncio.run(asked(guard(room), given(b"ab", b"", b"cde")))
    assert (status(sent), sent[1]["body"], room.taken) == (200, b"5", 0)


def test_a_body_that_does_not_come_is_408_and_the_connection_is_closed() -> None:
    room = Room()
    for receive in (given(b"a", end=False), given(end=False)):
        sent = asyncio.run(asked(guard(room), receive, headers={"content-length": "1000"}))
        assert status(sent) == 408
        assert (b"connection", b"close") in sent[0]["headers"]
        assert json.loads(sent[1]["body"])["error"]["code"] == "too_slow"
    assert room.taken == 0


def test_a_body_that_trickles_is_408_however_many_bytes_come() -> None:
    sent = asyncio.run(asked(guard(), given(*[b"a"] * 1000, pause=0.01)))
    assert status(sent) == 408


def test_a_large_body_has_time_by_its_bytes() -> None:
    parts = [bytes(2**15)] * 10  # each is half a second's worth
    sent = asyncio.run(asked(guard(), given(*parts, pause=0.05)))
    assert (status(sent), sent[1]["body"]) == (200, str(2**15 * 10).encode())


@pytest.mark.parametrize("announced", [{}, {"content-length": str(2**40)}, {"content-length": "²"}])
def test_a_body_without_end_is_413(announced: dict[str, str]) -> None:
    room = Room()
    endless = given(*[bytes(2**16)] * 100, end=False)
    sent = asyncio.run(asked(guard(room, 60.0), endless, headers=announced))
    assert (status(sent), room.taken) == (413, 0)


def test_a_client_that_leaves_gets_nothing() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    assert asyncio.run(asked(guard(), gone)) == []


def test_more_bodies_than_there_is_room_for_are_503_until_one_is_done() -> None:
    room, largest = Room(most=3 * LARGEST), bytes(LARGEST)

    async def crowd() -> tuple[list[int], int]:
        go, inside = asyncio.Event(), 0

        async def slow(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal inside
            inside += 1
            await go.wait()
            await told(scope, receive, send)

        app = Bodies(slow, frozenset(), room, 5.0)
        tasks = [asyncio.create_task(asked(app, given(largest))) for _ in range(8)]
        while inside < 3 or sum(task.done() for task in tasks) < 5:
            await asyncio.sleep(0)
        held = room.taken
        go.set()
        answers = await asyncio.gather(*tasks)
        refused = [sent for sent in answers if status(sent) == 503]
        assert all((b"retry-after", b"1") in sent[0]["headers"] for sent in refused)
        return sorted(status(sent) for sent in answers), held

    statuses, held = asyncio.run(crowd())
    assert (statuses, held) == ([200] * 3 + [503] * 5, 3 * LARGEST)
    assert room.taken == 0
    assert status(asyncio.run(asked(guard(room), given(largest)))) == 200


@pytest.fixture(scope="module")
def client(text_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """Without the end of the application, which would close what other tests use."""
    jobs = Jobs(tmp_path_factory.mktemp("bodies") / "jobs")
    return TestClient(create_app(text_catalog, jobs=jobs), raise_server_exceptions=False)


DEEP = [10, 100, 200, 400, 490, 700, 900, 950, 980, 990, 1000, 1500, 5000, 100_000]


@pytest.mark.parametrize("depth", DEEP)
@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("/v1/images/generations", '{"n": ', "}"),
        ("/v1/completions", '{"model": "tales", "prompt": ', "}"),
        ("/v1/completions", '{"model": "tales", "user": ', ', "n": 0}'),
        ("/v1/completions", '{"model": "tales", "logit_bias": ', "}"),
        ("/v1/chat/completions", '{"model": "tales", "messages": ', "}"),
        ("/v1/generations", '{"model": "digits", "label": ', "}"),
        ("/v1/jobs", '{"model": "tales", "n": 1, "request": {"metadata": ', ', "n": 2}}'),
        ("/v1/images/edits", '{"image": ', "}"),
    ],
)
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")], ids=["lists", "objects"])
def test_a_deep_body_is_400(
    client: TestClient, depth: int, path: str, before: str, after: str, left: str, right: str
) -> None:
    content = before + left * depth + "1" + right * depth + after
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.content) < 1000


def test_what_is_open_of_the_pages_loads_nothing_from_elsewhere(text_client: TestClient) -> None:
    page = text_client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 3
    for path in loaded:
        assert path.startswith("/static-offline-docs/")
        assert text_client.get(path).status_code == 200
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_metrics_know_routes_by_their_templates(text_client: TestClient) -> None:
    for path in ("/v1/models/digits", "/v1/models/none", "/v1/models/a/b", "/static-offline-docs/x"):
        text_client.get(path)
    text = text_client.get("/metrics").text
    assert 'route="/v1/models/{name}",status="200"' in text
    assert 'route="/v1/models/{name}",status="404"' in text
    assert 'route="other",status="404"' in text
    assert "a/b" not in text


def test_series_of_versions_that_are_gone_are_let_go(
    text_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog({"tales": text_catalog.loaded["tales"]})
    seen = Metrics(catalog, frozenset({"/v1/completions"}))
    for version in ("1", "2"):
        seen.count(("/v1/completions", "tales", version), "200", 0.1)
    seen.count(("other", "", ""), "404", 0.1)
    assert 'version="1"' in seen.text().decode()
    monkeypatch.setattr(metrics, "GONE", 0.0)
    text = seen.text().decode()
    assert 'version="1"' not in text
    assert 'model="tales",route="/v1/completions",status="200",version="2"' in text  # it is served still
    assert 'route="other"' in text
