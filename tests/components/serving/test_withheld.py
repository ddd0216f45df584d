"""What a product's content filter does to answers: texts end before it, pictures are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from components.filtering import ContentFilter
from components.modalities.tokenizer import train_tokenizer
from components.serving.catalog import Catalog, Loaded, Served, open_version
from components.serving.client import answer
from components.serving.listening import FULL, RUNNING, News
from components.serving.routes.application import create_app
from components.serving.writing import Writer
from components.settings import Settings
from components.terms import Terms
from tests.components.serving.parrot import COMPLETE, chat, complete, parrot, stream, texts

DRAW = "/v1/images/generations"
CODE = """
def refuse(content, media_type):
    if media_type == "image/png":
        return "an even file" if sum(content) % 2 == 0 else None
    return "too long" if content.count(b"la") > 8 else None
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("code") / "own.py"
    path.write_text(CODE)
    return path


def filtered(loaded: Loaded, **terms: Any) -> Loaded:
    found = Terms(**terms)
    return replace(loaded, served=replace(loaded.served, terms=found), filter=ContentFilter(found))


@pytest.fixture(scope="module")
def client(
    artifact: Callable[..., Path], code: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    root = tmp_path_factory.mktemp("withheld")
    digits = Served("digits", 1, artifact(root / "digits"), 0, terms=Terms(code=code))
    catalog = Catalog(
        {
            "tales": filtered(parrot(root), words=("owl", "grey owl")),
            "songs": filtered(parrot(root, "songs"), code=code),
            "digits": open_version(digits, Settings(home=root)),
        }
    )
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def test_a_text_ends_before_a_word_that_is_not_let_out(client: TestClient) -> None:
    (choice,) = complete(client, prompt="an Owl, ", max_tokens=20)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("an ", "content_filter")
    (choice,) = complete(client, prompt="a growl. ", max_tokens=20)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("a growl. a growl. a ", "length")
    (choice,) = complete(client, prompt="my owl", max_tokens=6)["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("my ", "content_filter")
    (choice,) = chat(client, messages=[{"role": "user", "content": "owl "}], max_tokens=9)["choices"]
    assert choice["finish_reason"] == "content_filter"
    assert "owl" not in choice["message"]["content"]


def test_a_stream_never_shows_a_piece_of_it(client: TestClient) -> None:
    events = stream(client, COMPLETE, prompt="see a grey owl ", max_tokens=40)
    assert texts(events) == ["see a "]
    assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
    plain = stream(client, COMPLETE, prompt="see a grey fox ", max_tokens=40)
    assert texts(plain) == ["see a grey fox see a grey fox see a grey"]


def test_no_log_probability_shows_what_is_not_let_out() -> None:
    """Of a token that begins with a space the rest would be seen, and a rival that was not chosen as well."""
    tokenizer = train_tokenizer("bpe", ["see a darn owl"] * 50, 400, chat=False)
    tokens = tokenizer.encode("see a darn")
    (darn,) = tokenizer.encode(" darn")
    (see,) = tokenizer.encode("see")
    writer = Writer(tokenizer, 0, filter=ContentFilter(Terms(words=("darn",))))
    rivals = [[(darn, -1.0), (see, -2.0)]] * len(tokens)
    pieces = [
        writer.push(News(0, [token], RUNNING, [-0.5], [top]))
        for token, top in zip(tokens, rivals, strict=True)
    ]
    pieces.append(writer.push(News(0, tokenizer.encode(" owl")[:1], FULL, [-0.5], [rivals[0]])))
    given = [piece for piece in pieces if piece is not None]
    assert "".join(piece.text for piece in given) == "see a "
    assert given[-1].finish == "content_filter"
    shown = [entry for piece in given for entry in piece.entries]
    assert [entry.token for entry in shown] == [b"see", b" a"]
    assert {rival for entry in shown for rival, _ in entry.top} == {b"see"}


def test_a_stop_text_before_the_word_is_a_stop(client: TestClient) -> None:
    (choice,) = complete(client, prompt="no. owl ", max_tokens=20, stop=".")["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("no", "stop")


def test_own_code_sees_the_growing_text(client: TestClient) -> None:
    body = {"model": "songs", "prompt": "la", "temperature": 0, "max_tokens": 60}
    (choice,) = client.post(COMPLETE, json=body).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("", "content_filter")
    (choice,) = client.post(COMPLETE, json={**body, "max_tokens": 16}).json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("la" * 8, "length")


def test_pictures_are_left_out_and_an_answer_of_none_is_refused(client: TestClient) -> None:
    reply = client.post(DRAW, json={"n": 16, "seed": 1})
    data = reply.json()["data"]
    left_out = [item for item in data if item["b64_json"] is None]
    assert 0 < len(left_out) < 16
    assert {item["withheld"] for item in left_out} == {"an even file"}
    assert len(answer(reply)["data"]) == 16
    refused = client.post(DRAW, json={"n": 1, "seed": left_out[0]["seed"]})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "content_policy_violation"
    assert "an even file" in refused.json()["error"]["message"]
    body = {"model": "digits", "n": 1, "seed": left_out[0]["seed"]}
    assert client.post("/v1/generations", json=body).json() == refused.json()


def test_a_stream_of_pictures_says_which_are_withheld(client: TestClient) -> None:
    whole = client.post(DRAW, json={"n": 16, "seed": 1}).json()["data"]
    streamed = client.post(DRAW, json={"n": 16, "seed": 1, "stream": True}).text
    withheld = sum(item["b64_json"] is None for item in whole)
    assert streamed.count("event: image_generation.withheld") == withheld
    assert streamed.count("event: image_generation.completed") == 16 - withheld


def test_what_is_withheld_is_counted(client: TestClient) -> None:
    complete(client, prompt="owl ", max_tokens=20)
    lines = client.get("/metrics").text.splitlines()
    (count,) = (line for line in lines if line.startswith('genloom_withheld_total{model="tales"'))
    assert float(count.rpartition(" ")[2]) >= 1
    listed = {model["id"]: model["filtered"] for model in client.get("/v1/models").json()["data"]}
    assert listed == {"tales": True, "songs": True, "digits": True}
