"""The routes of text over a family whose words are known, in this process."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from components.families.family import Requests
from components.serving.engine import Engine
from tests.components.serving.parrot import (
    CHAT,
    COMPLETE,
    HI,
    chat,
    complete,
    stream,
    texts,
)


@pytest.fixture
def client(text_client: TestClient) -> TestClient:
    return text_client


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
    many = [turn("assistant", "")] * 1000 + [turn("user", "last")]
    assert chat(client, messages=many, truncation="auto", max_tokens=20)["usage"]["prompt_tokens"] <= 44
    wide = [turn("user", "月" * 90 + "end")]  # three tokens each
    assert chat(client, messages=wide, truncation="auto", max_tokens=20)["usage"]["prompt_tokens"] == 44
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
    chat(client, **idle, **format_, tools=[], tool_choice="none", store=False, service_tier="flex")
    cached = {"type": "text", "text": "hi", "prompt_cache_breakpoint": {"mode": "explicit"}}
    caching = {"prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit"}}
    chat(
        client,
        messages=[{"role": "user", "content": [cached]}],
        moderation=None,
        verbosity="medium",
        **caching,
    )


def test_a_seed_may_be_negative_and_the_header_names_one_that_does_the_same(client: TestClient) -> None:
    def said(seed: int) -> Any:
        body = {"model": "tales", "prompt": "abcdefgh", "seed": seed, "max_tokens": 20}
        return client.post(COMPLETE, json=body)

    answer = said(-7)
    assert answer.status_code == 200, answer.text
    named = int(answer.headers["x-genloom-seed"])
    assert named >= 0
    assert said(named).json()["choices"] == answer.json()["choices"]
    assert said(7).json()["choices"] != answer.json()["choices"]


def test_every_sampling_option_reaches_the_sampler(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parrot obeys few of them, so what counts is what the engine is handed."""
    seen: list[Requests] = []
    submit = Engine.submit

    def heard(engine: Engine, requests: Requests, *arguments: Any, **more: Any) -> Any:
        seen.append(requests)
        return submit(engine, requests, *arguments, **more)

    monkeypatch.setattr(Engine, "submit", heard)
    asked = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.75,
        "min_p": 0.125,
        "repetition_penalty": 1.25,
        "frequency_penalty": 0.25,
        "presence_penalty": -0.5,
        "max_tokens": 3,
    }
    complete(client, prompt="abc", **asked)
    chat(client, **asked)
    usual = {"top_k": 0, "top_p": 1, "min_p": 0, "repetition_penalty": 1}
    complete(client, prompt="abc")
    for requests, wanted in zip(seen, (asked, asked, usual), strict=True):
        assert {name: float(requests.options[name][0]) for name in wanted} == wanted
