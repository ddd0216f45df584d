"""The `openai` package, unmodified, against a real server that serves pictures and text together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.components.serving.asking import waiting
from tests.until import until

HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_a_completion_whole_and_streamed_is_the_same(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tales", "prompt": "Once", "max_tokens": 30, "seed": 7, "n": 2, "temperature": 0.9}
    whole = client.completions.create(**asked)
    assert whole.object == "text_completion"
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert {choice.finish_reason for choice in whole.choices} <= {"stop", "length"}
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == 5
    said = ["", ""]
    finish: dict[int, str] = {}
    usage = None
    for chunk in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.text
            if choice.finish_reason:
                finish[choice.index] = choice.finish_reason
    assert said == [choice.text for choice in whole.choices]
    assert [finish[0], finish[1]] == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    second = client.completions.create(**{**asked, "seed": 8, "n": 1})
    assert second.choices[0].text == said[1]
    assert client.completions.create(**{**asked, "seed": 9, "n": 1}).choices[0].text not in said


def test_a_chat_whole_and_streamed_is_the_same(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tales", "messages": HELLO, "max_completion_tokens": 30, "seed": 3, "top_p": 0.9}
    whole = client.chat.completions.create(**asked)
    message = whole.choices[0].message
    assert message.role == "assistant"
    assert message.content
    assert whole.system_fingerprint
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert parts[-1].usage == whole.usage
    said = "".join(choice.delta.content or "" for part in parts for choice in part.choices)
    assert said == message.content
    with client.chat.completions.stream(**asked) as events:
        assert "".join(event.delta for event in events if event.type == "content.delta") == said


def test_a_stop_text_across_the_borders_of_tokens(client: openai.OpenAI) -> None:
    asked: Any = {"model": "tales", "prompt": "Once", "max_tokens": 60, "seed": 11}
    free = client.completions.create(**asked).choices[0].text
    stop = free[9:13]  # a token is a byte here, so these are at least four
    cut = client.completions.create(**asked, stop=[stop, "never said"]).choices[0]
    assert cut.text == free[: free.index(stop)]
    assert cut.finish_reason == "stop"
    streamed = client.completions.create(**asked, stop=stop, stream=True)
    assert "".join(choice.text for chunk in streamed for choice in chunk.choices) == cut.text


def test_log_probabilities_are_the_model_s_own(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tales", prompt="Once", max_tokens=8, seed=1, logprobs=3)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert len(found.tokens) == len(found.token_logprobs) == 8
    assert all(-20 < value < 0 for value in found.token_logprobs)
    for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert 3 <= len(top) <= 4
        assert top[token] == value
    chat = client.chat.completions.create(
        model="tales", messages=HELLO, max_tokens=4, seed=1, logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content
    assert content is not None
    assert all(len(token.top_logprobs) == 2 for token in content)


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="“temperature” is -1"):
        client.chat.completions.create(model="tales", messages=HELLO, temperature=-1)
    with pytest.raises(openai.NotFoundError, match="did you mean tales"):
        client.completions.create(model="tale", prompt="a")
    with pytest.raises(openai.BadRequestError, match="ask it at /v1/images/generations"):
        client.completions.create(model="digits", prompt="a", stream=True)
    with pytest.raises(openai.BadRequestError, match="ask it at /v1/completions or /v1/chat/completions"):
        client.images.generate(model="tales", prompt="")
    with pytest.raises(openai.BadRequestError, match="201 > 127") as refused:
        client.completions.create(model="tales", prompt="a" * 200)
    assert refused.value.code == "context_length_exceeded"
    cut = client.completions.create(model="tales", prompt="a" * 200, extra_body={"truncation": "auto"})
    assert cut.usage is not None
    assert cut.usage.prompt_tokens == 112


def test_sixteen_streams_at_once_say_what_each_says_alone(url: str, client: openai.OpenAI) -> None:
    def asked(seed: int) -> Any:
        return {"model": "tales", "prompt": f"Once {seed}", "max_tokens": 100, "seed": seed}

    async def listen(asking: openai.AsyncOpenAI, seed: int) -> str:
        said = ""
        async for chunk in await asking.completions.create(**asked(seed), stream=True):
            said += "".join(choice.text for choice in chunk.choices)
        return said

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as asking:
            return list(await asyncio.gather(*(listen(asking, seed) for seed in range(16))))

    together = asyncio.run(all_of_them())
    assert len(set(together)) == 16
    assert [client.completions.create(**asked(seed)).choices[0].text for seed in (0, 5)] == [
        together[0],
        together[5],
    ]


def test_who_hangs_up_half_way_harms_nobody(url: str, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tales", "prompt": "Once", "max_tokens": 120, "seed": 3}
    before = client.completions.create(**asked).choices[0].text
    for _ in range(5):
        with httpx.stream("POST", f"{url}/v1/completions", json={**asked, "n": 128, "stream": True}) as reply:
            assert next(reply.iter_bytes())
    until(lambda: not waiting(url, "tales"))
    assert client.completions.create(**asked).choices[0].text == before


def test_generate_writes_the_same_by_the_server_and_here(
    url: str, site: Any, genloom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from components.serving import server

    asked = ("generate", "tales", "--prompt", "Once", "--seed", 7, "--max-tokens", 20, "--temperature", 0.8)
    chat = ("chat", "tales", "--once", "Hello", "--seed", 7, "--max-tokens", 20)
    served, talked = genloom(*asked), genloom(*chat)
    assert served.code == talked.code == 0, served.err + talked.err
    assert f"tales/1 wrote with seed 7, by the server at {url}" in served.err
    several = genloom(*asked, "-n", 2, "--json", "-o", tmp_path / "two.json")
    assert several.code == 0, several.err
    content = json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))
    assert content["choices"][0]["text"] == served.out[:-1]
    monkeypatch.setattr(server, "find", lambda _: None)
    here = genloom(*asked)
    assert "loaded here" in here.err
    assert here.out == served.out
    assert genloom(*chat).out == talked.out
    again = json.loads(genloom(*asked, "-n", 2, "--json").out)
    assert again["choices"] == content["choices"]
    assert genloom(*asked, "-n", 2, "-o", tmp_path / "two.txt").code == 0
    written = (tmp_path / "two.txt").read_text(encoding="utf-8")
    assert (
        written == f"── 7 ──\n{content['choices'][0]['text']}\n\n── 8 ──\n{content['choices'][1]['text']}\n\n"
    )


def test_a_chat_goes_on_until_the_input_ends(
    url: str, genloom: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter(["Hello", "", "And you?"])

    def ask(_: str) -> str:
        try:
            return next(said)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", ask)
    result = genloom("chat", "tales", "--seed", 7, "--max-tokens", 20)
    assert result.code == 0, result.err
    first = genloom("chat", "tales", "--once", "Hello", "--seed", 7, "--max-tokens", 20).out
    assert result.out.startswith(first)
    assert len(result.out) > len(first) + 1


def test_options_of_the_other_modality_are_refused(
    url: str, genloom: Callable[..., Any], tmp_path: Path
) -> None:
    for arguments, said in (
        (("generate", "tales", "--size", "8x8"), "makes text, without --size; leave it out"),
        (("generate", "tales", "--temperature", "-1"), "“temperature” is -1"),
        (("generate", "tales", "--prompt", "a" * 200), "201 > 127"),
        (("generate", "tales", "-o", tmp_path / "no" / "file"), "cannot be written"),
        (("generate", "tales", "--label", "cat"), "makes text, without --label; leave it out"),
        (("generate", "digits", "--prompt", "a cat"), "draws without a prompt"),
        (("generate", "digits", "--top-p", "0.5"), "makes pictures, without --top-p"),
        (("edit", "tales", "a.png"), "makes text and edits no pictures"),
        (
            ("augment", "tales", "-o", tmp_path / "many"),
            "makes text; genloom augment draws labelled pictures",
        ),
        (("chat", "digits", "--once", "Hello"), "does not talk; ask it with genloom generate digits"),
    ):
        result = genloom(*arguments)
        assert result.code == 2, arguments
        assert said in result.err, result.err
        assert result.err.count("\n") == 1, result.err
