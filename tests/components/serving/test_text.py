"""The routes of text over a family whose words are known, in this process."""

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
from tests.components.serving.parrot import CHAT, COMPLETE, CONTEXT, HI, Parrot, parrot


@pytest.fixture
def catalog(text_catalog: Catalog) -> Catalog:
    return text_catalog


@pytest.fixture
def client(text_client: TestClient) -> TestClient:
    return text_client


def complete(client: TestClient, **body: Any) -> Any:
    answer = client.post(COMPLETE, json={"model": "tales", "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(client: TestClient, **body: Any) -> Any:
    answer = client.post(CHAT, json={"model": "tales", "temperature": 0, "messages": HI, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(client: TestClient, url: str, **body: Any) -> list[Any]:
    """The events of a stream, which must end as OpenAI's do."""
    answer = client.post(url, json={"model": "tales", "temperature": 0, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, nothing = answer.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts(events: list[Any], rows: int = 1) -> list[str]:
    said = [""] * rows
    for event in events:
        for choice in event["choices"]:
            said[choice["index"]] += (
                choice["text"] if "text" in choice else choice["delta"].get("content", "")
            )
    return said


def test_a_completion_is_openai_s_object(client: TestClient) -> None:
    answer = client.post(
        COMPLETE, json={"model": "tales", "prompt": "abc", "temperature": 0, "max_tokens": 5, "seed": 3}
    )
    assert answer.headers["x-genloom-seed"] == "3"
    assert (answer.headers["x-genloom-model"], answer.headers["x-genloom-version"]) == ("tales", "2")
    content = answer.json()
    assert content.pop("id").startswith("cmpl-")
    assert abs(content.pop("created") - time.time()) < 60
    assert content == {
        "object": "text_completion",
        "model": "tales",
        "system_fingerprint": "v2-dddddddddddd",
        "choices": [{"text": "abcab", "index": 0, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9},
    }


def test_a_chat_ends_with_its_turn(client: TestClient) -> None:
    content = chat(client)
    assert content.pop("id").startswith("chatcmpl-")
    assert content["object"] == "chat.completion"
    (choice,) = content["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": "hi", "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert content["usage"]["prompt_tokens"] == 6


def test_a_streamed_chat_has_role_text_end_and_usage(client: TestClient) -> None:
    events = stream(client, CHAT, messages=HI, stream_options={"include_usage": True})
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    *chunks, last = events
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert texts(chunks) == ["hi"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == chat(client)["usage"]
    assert all("usage" not in event for event in stream(client, CHAT, messages=HI))


def test_every_prompt_has_n_answers_in_order_and_row_i_has_seed_plus_i(client: TestClient) -> None:
    asked = {"prompt": ["one two", "three"], "n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 12}
    content = complete(client, **asked)
    said = [choice["text"] for choice in content["choices"]]
    assert [choice["index"] for choice in content["choices"]] == list(range(6))
    assert all(set(text) <= set("one two") for text in said[:3])
    assert all(set(text) <= set("three") for text in said[3:])
    assert content["usage"] == {"prompt_tokens": 14, "completion_tokens": 72, "total_tokens": 86}
    single = complete(client, prompt="three", temperature=1.0, seed=9, max_tokens=12)
    assert single["choices"][0]["text"] == said[4]
    assert texts(stream(client, COMPLETE, **asked), 6) == said


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("abc", ["abcabc"]),
        (["abc", "x"], ["abcabc", "xxxxxx"]),
        ([70, 71], ["bcbcbc"]),
        ([[70, 71], [0, 72, 0]], ["bcbcbc", "d"]),
    ],
    ids=["text", "texts", "tokens", "lists of tokens"],
)
def test_a_prompt_has_four_forms(client: TestClient, prompt: Any, said: list[str]) -> None:
    content = complete(client, prompt=prompt, max_tokens=6)
    assert [choice["text"] for choice in content["choices"]] == said


@pytest.mark.parametrize(
    ("prompt", "stop", "said"),
    [
        ("one two ", "two", "one "),
        ("one two ", ["wo o", "zzz"], "one t"),
        ("aab", "ab", "a"),
        ("aaab", ["aab"], "a"),
        ("abab|", ["abac", "b|"], "aba"),
        ("h€y ", "€", "h"),
        ("xyz", ["xyzxyzxyq"], "xyzxyzxyzxyzxyzx"),
    ],
)
def test_a_stop_text_ends_the_answer_and_is_never_in_it(
    client: TestClient, prompt: str, stop: Any, said: str
) -> None:
    (choice,) = complete(client, prompt=prompt, stop=stop)["choices"]
    assert choice["text"] == said
    assert choice["finish_reason"] == ("stop" if len(said) < 16 else "length")
    events = stream(client, COMPLETE, prompt=prompt, stop=stop)
    assert texts(events) == [said]
    assert events[-1]["choices"][0]["finish_reason"] == choice["finish_reason"]


def test_a_stop_text_frees_the_row(client: TestClient) -> None:
    content = complete(client, prompt="one two ", stop="two", max_tokens=60)
    assert content["usage"]["completion_tokens"] == 7


def test_a_character_is_never_cut(client: TestClient) -> None:
    for most in range(1, 12):
        events = stream(client, COMPLETE, prompt="a€世🌍", max_tokens=most)
        (said,) = texts(events)
        assert "a€世🌍".startswith(said)
        assert said == complete(client, prompt="a€世🌍", max_tokens=most)["choices"][0]["text"]
    assert said == "a€世🌍"
    assert all("\ufffd" not in choice["text"] for event in events for choice in event["choices"])


def test_bytes_that_are_no_character_are_shown_as_such(client: TestClient) -> None:
    broken = [70, 150, 71]
    assert complete(client, prompt=broken, max_tokens=3)["choices"][0]["text"] == "b\ufffdc"


def test_log_probabilities_of_a_completion(client: TestClient) -> None:
    (choice,) = complete(client, prompt="a€", max_tokens=4, logprobs=2)["choices"]
    found = choice["logprobs"]
    assert found["tokens"] == ["a", r"bytes:\xe2", r"bytes:\x82", r"bytes:\xac"]
    assert found["token_logprobs"] == [-0.5] * 4
    assert found["text_offset"] == [0, 1, 1, 1]
    assert found["top_logprobs"][0] == {"a": -0.5, "b": -1.5}
    assert complete(client, prompt="a", logprobs=0)["choices"][0]["logprobs"]["top_logprobs"][0] == {
        "a": -0.5
    }
    events = stream(client, COMPLETE, prompt="a€", max_tokens=4, logprobs=2)
    parts = [choice["logprobs"]["tokens"] for event in events for choice in event["choices"]]
    assert [token for part in parts for token in part] == found["tokens"]


def test_log_probabilities_of_a_chat(client: TestClient) -> None:
    (choice,) = chat(client, logprobs=True, top_logprobs=1)["choices"]
    tokens = choice["logprobs"]["content"]
    assert [token["token"] for token in tokens] == ["<|user|>", "h", "i"]
    h = {"token": "h", "logprob": -0.5, "bytes": [104]}
    assert tokens[1] == {**h, "top_logprobs": [h]}
    events = stream(client, CHAT, messages=HI, logprobs=True, top_logprobs=1)
    streamed = [choice["logprobs"]["content"] for event in events for choice in event["choices"]]
    assert [token for part in streamed for token in part] == tokens


def test_tokens_of_a_stop_text_have_no_log_probability(client: TestClient) -> None:
    (choice,) = complete(client, prompt="one two ", stop="two", logprobs=0)["choices"]
    assert choice["logprobs"]["tokens"] == list("one ")


def test_echo_repeats_the_prompt(client: TestClient) -> None:
    asked = {"prompt": ["ab", "c"], "echo": True, "max_tokens": 2}
    assert [choice["text"] for choice in complete(client, **asked)["choices"]] == ["abab", "ccc"]
    assert texts(stream(client, COMPLETE, **asked), 2) == ["abab", "ccc"]


def test_max_tokens_beyond_the_context_end_with_it(client: TestClient) -> None:
    content = complete(client, prompt="a" * 60, max_tokens=1000)
    assert content["choices"][0]["finish_reason"] == "length"
    assert content["usage"] == {"prompt_tokens": 61, "completion_tokens": 3, "total_tokens": 64}
    assert complete(client, prompt="ab")["usage"]["completion_tokens"] == 16


def test_a_prompt_that_is_too_long_is_cut_where_that_is_asked_for(client: TestClient) -> None:
    prompt = "".join(chr(97 + place % 26) for place in range(100))
    refused = client.post(COMPLETE, json={"model": "tales", "prompt": prompt})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt")
    assert "101 > 63" in error["message"]
    content = complete(client, prompt=prompt, truncation="auto", max_tokens=10)
    assert content["choices"][0]["text"] == prompt[-53:-43]
    assert content["usage"]["prompt_tokens"] == 54


def test_a_chat_that_is_too_long_keeps_the_system_and_the_last_turn(client: TestClient) -> None:
    def turn(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    long = [turn("system", "S"), turn("user", "a" * 30), turn("assistant", "b" * 30), turn("user", "last")]
    refused = client.post(CHAT, json={"model": "tales", "messages": long})
    assert refused.json()["error"]["code"] == "context_length_exceeded"
    assert refused.json()["error"]["param"] == "messages"
    content = chat(client, messages=long, truncation="auto", max_tokens=20)
    assert content["usage"]["prompt_tokens"] == 43
    short = chat(client, messages=long, truncation="auto", max_tokens=22)
    assert short["usage"]["prompt_tokens"] == 11
    alone = chat(client, messages=[turn("user", "x" * 90 + "end")], truncation="auto", max_tokens=20)
    assert alone["usage"]["prompt_tokens"] == 44
    assert alone["choices"][0]["message"]["content"] == "x" * 19
    system = {"model": "tales", "messages": [turn("system", "S" * 90), *HI], "truncation": "auto"}
    assert client.post(CHAT, json=system).json()["error"]["code"] == "context_length_exceeded"


def test_messages_may_be_parts_and_roles_have_two_names(client: TestClient) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert chat(client, messages=[{"role": "user", "content": parts}])["choices"] == chat(client)["choices"]
    one = chat(client, messages=[{"role": "developer", "content": "be"}, *HI])
    two = chat(client, messages=[{"role": "system", "content": "be"}, *HI])
    assert one["choices"][0]["message"]["content"] == two["choices"][0]["message"]["content"] == "be"


def test_what_a_person_writes_is_never_a_special_token(client: TestClient) -> None:
    content = chat(client, messages=[{"role": "user", "content": "<|stop|>!"}])
    assert content["choices"][0]["message"]["content"] == "<|stop|>!"


def test_a_model_of_pairs_takes_the_prompt_as_its_source(client: TestClient) -> None:
    assert complete(client, model="pairs", prompt="ab", max_tokens=4)["choices"][0]["text"] == "abab"
    turns = [{"role": "user", "content": "no"}, {"role": "assistant", "content": "x"}, *HI]
    said = chat(client, model="pairs", messages=turns, max_tokens=4)
    assert said["choices"][0]["message"]["content"] == "hihi"
    assert said["usage"]["prompt_tokens"] == 2


def test_an_empty_prompt_is_the_beginning_of_a_document(client: TestClient) -> None:
    for prompt in ({"prompt": ""}, {"prompt": None}, {}):
        assert complete(client, max_tokens=2, **prompt)["usage"]["prompt_tokens"] == 1


def test_what_asks_for_nothing_is_taken(client: TestClient) -> None:
    idle = {"logit_bias": {}, "user": "me", "metadata": {"a": "b"}, "stop": None, "n": None}
    complete(client, **idle, best_of=1, suffix=None)
    format_ = {"response_format": {"type": "text"}, "modalities": ["text"], "parallel_tool_calls": True}
    chat(client, **idle, **format_, tools=[], tool_choice="none", store=False, service_tier="auto")


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
    assert routes["digits"] == ["/v1/images/generations"]
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


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_rows(tmp_path: Path, stream: bool) -> None:
    slow = parrot(tmp_path, pause=0.01)
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

    async def leave() -> float:
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
        await asyncio.sleep(0.1)
        assert slow.engine.waiting == 4
        began = time.monotonic()
        if stream:
            left.set()
            await task
        else:
            task.cancel()  # Ray Serve cancels a request whose client has left
            with pytest.raises(asyncio.CancelledError):
                await task
        while slow.engine.busy:
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    assert asyncio.run(leave()) < 0.3
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

    worst, whole = asyncio.run(both())
    assert worst < whole / 3


def test_torch_is_left_alone(catalog: Catalog) -> None:
    """Seeds are the request's own: the global generator plays no part."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded = catalog.loaded["tales"]
    loaded.generate(loaded.model.modality.warm())
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
    loaded.generate(model.modality.warm())
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
