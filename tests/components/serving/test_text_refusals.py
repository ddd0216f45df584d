"""Every bad input of the routes of text gets one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.components.serving.parrot import CHAT, COMPLETE, HI


@pytest.fixture
def client(text_client: TestClient) -> TestClient:
    return text_client


BOTH = [
    ({"temperature": -1}, "temperature", "“temperature” is -1: input should be greater than or equal to 0"),
    ({"temperature": "hot"}, "temperature", '“temperature” is "hot"'),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"max_tokens": 0}, "max_tokens", "“max_tokens” is 0"),
    ({"max_tokens": 1.5}, "max_tokens", "“max_tokens” is 1.5"),
    ({"top_p": -0.1}, "top_p", "“top_p” is -0.1"),
    ({"presence_penalty": 3}, "presence_penalty", "“presence_penalty” is 3"),
    ({"n": 0}, "n", "“n” is 0"),
    ({"seed": -(2**63) - 1}, "seed", "“seed” is -9223372036854775809"),
    ({"stop": ""}, "stop", "a stop text is empty"),
    ({"stop": ["a", ""]}, "stop", "a stop text is empty"),
    ({"stop": list("abcde")}, "stop", "up to 4 texts"),
    ({"stop": 5}, "stop", "“stop” is 5"),
    ({"stop": "a" * 257}, "stop", "a stop text is longer than 256 characters"),
    ({"top_k": 10**30}, "top_k", "less than or equal to"),
    ({"repetition_penalty": 1e-50}, "repetition_penalty", "greater than or equal to 0.01"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "this server does not do that; leave it out"),
    ({"stream_options": {"include_usage": True}}, None, "“stream_options” needs “stream”: true"),
    ({"truncation": "yes"}, "truncation", "'disabled' or 'auto'"),
    ({"temprature": 1}, "temprature", "There is no field “temprature”; did you mean temperature"),
]
COMPLETIONS = [
    ({"prompt": []}, "prompt", "there is no prompt in the list"),
    ({"prompt": [[]]}, "prompt", "a list of tokens is empty"),
    ({"prompt": 5}, "prompt", "“prompt” is 5: input should be a text, a list of texts"),
    ({"prompt": ["a", 5]}, "prompt", "a list of lists of tokens"),
    ({"prompt": [True]}, "prompt", "a list of lists of tokens"),
    ({"prompt": [5, 261]}, None, "There is no token 261; this model's are 0 to 260."),
    ({"prompt": [-1]}, None, "There is no token -1"),
    ({"prompt": "a" * 63}, "prompt", "64 > 63"),
    ({"model": "pairs", "prompt": ""}, None, "put that text into “prompt”"),
    ({"model": "pairs", "prompt": "a" * 33}, "prompt", "33 > 32"),
    ({"prompt": ["a"] * 9, "n": 128}, None, "ask for 1152 answers; one request may ask for 1024"),
    ({"logprobs": 6}, "logprobs", "“logprobs” is 6"),
    ({"best_of": 2}, None, "“best_of” must be “n”, which is 1"),
    ({"echo": True, "logprobs": 1}, None, "“echo” and “logprobs”"),
    ({"suffix": "end"}, "suffix", "this server does not do that"),
    ({"model": "digits"}, None, "The model “digits” makes pictures; ask it at /v1/images/generations or"),
]
CHATS = [
    ({"messages": []}, "messages", "“messages” is []"),
    ({"messages": None}, "messages", "“messages” is null"),
    ({"messages": HI * 1025}, "messages", "at most 1024 items"),
    ({"messages": "hi"}, "messages", '“messages” is "hi"'),
    ({"messages": [{"role": "pirate", "content": "hi"}]}, "messages.0.role", "system, developer, user, assistant"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages.0", "a user's message is empty"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "“messages.0.content” is null"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", "list of parts"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "The field “messages.0.content” is missing"),
    ({"messages": [{"role": "user", "content": "a" * 64}]}, "messages", "68 > 63"),
    ({"model": "pairs", "messages": [{"role": "user", "content": "a" * 33}]}, "messages", "33 > 32"),
    ({"model": "pairs", "messages": [{"role": "assistant", "content": "a"}]}, None, "no message of the user"),
    ({"model": "plain"}, None, "no chat template; ask it by /v1/completions"),
    ({"top_logprobs": 2}, None, "“top_logprobs” needs “logprobs”"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "“top_logprobs” is 21"),
    ({"logprobs": 1}, "logprobs", "“logprobs” is 1"),
    ({"verbosity": "low"}, "verbosity", "this server does not do that"),
    ({"moderation": {"model": "omni"}}, "moderation", "this server does not do that"),
    ({"tools": [{"type": "function"}]}, "tools", "this server does not do that"),
    ({"response_format": {"type": "json_object"}}, "response_format", "this server does not do that"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, None, "differ; send one of them"),
]  # fmt: skip
BAD = [
    *((COMPLETE, {"prompt": "a", **body}, param, said) for body, param, said in [*BOTH, *COMPLETIONS]),
    *((CHAT, {"messages": HI, **body}, param, said) for body, param, said in [*BOTH, *CHATS]),
]


@pytest.mark.parametrize(
    ("url", "body", "param", "said"), BAD, ids=[f"{url[4:8]} {str(body)[-40:]}" for url, body, _, _ in BAD]
)
def test_a_bad_request_gets_one_sentence(
    client: TestClient, url: str, body: Any, param: str | None, said: str
) -> None:
    for stream in (False, True):
        if "stream_options" in body and stream:
            continue
        answer = client.post(url, json={"model": "tales", "stream": stream, **body})
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert said in error["message"]
        assert error["message"].endswith((".", "?"))
        assert "\n" not in error["message"]
        assert len(error["message"]) < 300


@pytest.mark.parametrize("url", [COMPLETE, CHAT])
@pytest.mark.parametrize(
    ("field", "said"),
    [
        (b'"temperature": NaN', "“temperature” is NaN: input should be a finite number"),
        (b'"temperature": Infinity', "“temperature” is Infinity"),
        (b'"stop": "\\ud800"', "half a character"),
        (b'"prompt": "\\ud800x", "messages": [{"role": "user", "content": "\\udc00"}]', "half a character"),
        (b'"prompt": "\xff", "messages": [{"role": "user", "content": "\xff"}]', "not valid UTF-8, at byte"),
        (b'"model": "\\ud800"', "\\ud800"),
    ],
    ids=["nan", "infinity", "stop", "surrogate", "utf-8", "model"],
)  # fmt: skip
def test_numbers_and_characters_that_are_none(client: TestClient, url: str, field: bytes, said: str) -> None:
    before = b'{"prompt": "a", ' if url == COMPLETE else b'{"messages": [{"role": "user", "content": "a"}], '
    other = b', "messages"' if url == COMPLETE else b'"prompt"'
    if other in field:
        parts = field.split(b', "messages"')
        field = parts[0] if url == COMPLETE else b'"messages"' + parts[1]
    content = before + field + b"}"
    answer = client.post(url, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == (404 if b"model" in field else 400), answer.text
    assert said in answer.json()["error"]["message"]
