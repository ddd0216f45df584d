"""What goes wrong, who leaves, how long it takes, and the real families behind the routes of text."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient

from components.artifact import About, Model
from components.families.family import Kind, Shape, Task, kind_of, names
from components.modalities.text import Text
from components.modalities.tokenizer import train_tokenizer
from components.serving.catalog import Catalog, Loaded, Served
from components.serving.engine import Engine
from components.serving.routes.application import create_app
from tests.components.serving.parrot import (
    CHAT,
    COMPLETE,
    CONTEXT,
    HI,
    Parrot,
    chat,
    complete,
    parrot,
    stream,
    texts,
)


@pytest.fixture
def catalog(text_catalog: Catalog) -> Catalog:
    return text_catalog


@pytest.fixture
def client(text_client: TestClient) -> TestClient:
    return text_client


def test_an_image_is_not_asked_of_a_text_model(client: TestClient) -> None:
    answer = client.post("/v1/images/generations", json={"model": "tales"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == (
        "The model “tales” makes text; ask it at /v1/completions or /v1/chat/completions."
    )
    assert client.post("/v1/images/generations", json={}).status_code == 200
    nameless = client.post(COMPLETE, json={"prompt": "a"})
    assert nameless.status_code == 404
    assert client.post(CHAT, json={"model": "tails", "messages": HI}).status_code == 404
    routes = {model["id"]: model["routes"] for model in client.get("/v1/models").json()["data"]}
    assert routes["digits"] == ["/v1/images/generations", "/v1/images/variations"]
    assert routes["plain"] == [COMPLETE]
    assert routes["tales"] == [COMPLETE, CHAT]


def test_a_step_that_breaks_is_an_http_error_before_the_first_byte_and_an_event_after_it(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(3))
    plain = Parrot.advance
    monkeypatch.setattr(
        Parrot, "advance", lambda *rest: plain(*rest) if next(steps, None) is not None else 1 / 0
    )
    body = {"model": "tales", "prompt": "ab", "stream": True}
    answer = client.post(COMPLETE, json=body)
    assert answer.status_code == 200
    *chunks, last, nothing = answer.text.split("\n\n")
    assert len(chunks) == 3
    error = json.loads(last.removeprefix("data: "))["error"]
    assert (error["type"], error["code"], nothing) == ("server_error", "generation_failed", "")
    again = client.post(COMPLETE, json=body)
    assert again.status_code == 500
    assert again.json()["error"]["code"] == "generation_failed"


def test_a_full_queue_is_503_also_for_a_stream(client: TestClient, catalog: Catalog) -> None:
    engine = catalog.loaded["plain"].engine
    engine.queue, before = 2, engine.queue
    answer = client.post(COMPLETE, json={"model": "plain", "n": 3, "stream": True})
    engine.queue = before
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize(("stream", "how"), [(False, "leaves"), (True, "leaves"), (False, "cancelled")])
def test_a_client_that_leaves_frees_its_rows(tmp_path: Path, stream: bool, how: str) -> None:
    slow = parrot(tmp_path, pause=0.02)
    app = create_app(Catalog({"tales": slow}))
    body = json.dumps({"prompt": "ab", "n": 8, "max_tokens": 60, "stream": stream}).encode()
    scope = {
        "type": "http",
        "method": "POST",
        "path": COMPLETE,
        "raw_path": COMPLETE.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }

    async def leave() -> int:
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        left = asyncio.Event()

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            return None

        task = asyncio.create_task(app(scope, receive, send))
        while slow.engine.waiting != 4:
            await asyncio.sleep(0.005)
        before = slow.engine.tally.steps
        if how == "leaves":
            left.set()
            await task
        else:  # as Ray Serve's own proxy does with a request whose client has left
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        while slow.engine.busy:
            await asyncio.sleep(0.005)
        return slow.engine.tally.steps - before

    assert asyncio.run(leave()) < 40, "of the 120 steps that the rows would have taken"
    slow.engine.close()


def test_a_long_prompt_does_not_stop_the_others(catalog: Catalog) -> None:
    async def both() -> tuple[float, float]:
        transport = httpx.ASGITransport(create_app(catalog))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            began = last = time.monotonic()
            content = json.dumps({"model": "tales", "prompt": "a b" * 100_000})
            headers = {"content-type": "application/json"}
            long = asyncio.create_task(client.post(COMPLETE, content=content, headers=headers))
            worst = 0.0
            while not long.done():
                await asyncio.sleep(0)
                worst, last = max(worst, time.monotonic() - last), time.monotonic()
            assert long.result().json()["error"]["code"] == "context_length_exceeded"
        return worst, time.monotonic() - began

    shares = [worst / whole for worst, whole in (asyncio.run(both()) for _ in range(5))]
    assert min(shares) < 1 / 3, shares


def test_torch_is_left_alone(catalog: Catalog) -> None:
    """Seeds are the request's own: the global generator plays no part."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = catalog.loaded["tales"]
    loaded.generate(loaded.model.modality.warm(loaded.model.shape))
    assert torch.equal(torch.get_rng_state(), before)


TOKENS = [name for name in names() if Kind.TOKENS in kind_of(name).kinds]


@pytest.mark.parametrize("name", TOKENS)
def test_every_family_of_tokens_answers_whole_as_streamed(name: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bytes", [], 0, chat=True)
    tokenizer.save(tmp_path)
    pairs, vocabulary = Task.SOURCE in kind_of(name).tasks, tokenizer.vocabulary
    shape = Shape(data=(CONTEXT,), vocabulary=vocabulary, source=(CONTEXT,) if pairs else None)
    family = kind_of(name)(**{"layers": 2, "width": 32})
    networks = family.networks(shape)
    for network in networks.values():
        network.eval().requires_grad_(False)
    about = About(name, "", "", "", "", "", (), "text", "", {}, "", False, 0)
    model = Model(family, networks, shape, about, "d" * 64, 4, Text(tmp_path))
    loaded = Loaded(Served(name, 1, tmp_path, 0), model, Engine(model))
    loaded.generate(model.modality.warm(model.shape))
    with TestClient(create_app(Catalog({name: loaded}))) as client:
        asked = {
            "model": name,
            "temperature": 0.9,
            "top_k": 40,
            "top_p": 0.95,
            "min_p": 0.01,
            "seed": 4,
            "n": 3,
        }
        asked |= {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": -0.2}
        for more in ({"prompt": "Once upon a time"}, {"prompt": ["a", "b" * 40], "logprobs": 2}):
            whole = complete(client, **{**asked, **more})
            said = [choice["text"] for choice in whole["choices"]]
            assert len(set(said)) > 1
            assert texts(stream(client, COMPLETE, **{**asked, **more}), len(said)) == said
            for choice in whole["choices"]:
                for value in (choice["logprobs"] or {"token_logprobs": []})["token_logprobs"]:
                    assert -20 < value < 0
        talked = chat(client, **asked, max_tokens=10)
        said = [choice["message"]["content"] for choice in talked["choices"]]
        assert texts(stream(client, CHAT, messages=HI, max_tokens=10, **asked), 3) == said
        most = complete(client, model=name, prompt="a" * 60, max_tokens=99, seed=1, temperature=1.0)
        assert most["usage"]["completion_tokens"] <= (CONTEXT - 1 if pairs else 3)
