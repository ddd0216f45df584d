"""Sound over HTTP: OpenAI's route for speech, the general route, the openai package."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from fastapi.testclient import TestClient

from components.errors import UserError
from components.modalities import speech
from components.modalities.speech import spelled
from components.serving.catalog import Catalog
from components.serving.routes.application import create_app
from tests.components.serving.hum import RATE, SAMPLES, TONES, WORDS, hum, whistle
from tests.components.serving.parrot import parrot

SPEAK, GENERATE = "/v1/audio/speech", "/v1/generations"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("sound")
    return Catalog({"hum": hum(root), "drone": hum(root, "drone", ()), "tales": parrot(root)})


@pytest.fixture(scope="module")
def client(catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def heard(content: bytes) -> tuple[list[str], int]:
    """The words of a file, by their tones, and its rate."""
    levels, rate = soundfile.read(io.BytesIO(content))
    quiet = np.convolve(np.abs(levels) < 0.05, np.ones(rate // 20), "valid") > rate // 20 - 1
    found, loud = [], levels[: len(quiet)].copy()
    borders = np.flatnonzero(np.diff(np.concatenate([[True], quiet, [True]]).astype(int)))
    for first, last in zip(borders[::2], borders[1::2], strict=True):
        tone = np.argmax(np.abs(np.fft.rfft(loud[first:last], rate))) * 1.0
        found.append(WORDS[int(np.argmin(np.abs(np.array(TONES) - tone)))])
    return found, rate


def speak(client: TestClient, **body: Any) -> Any:
    return client.post(SPEAK, json={"model": "hum", "input": "low high", "seed": 5, **body})


@pytest.mark.parametrize(
    ("kind", "media"),
    [("wav", "audio/wav"), ("flac", "audio/flac"), ("mp3", "audio/mpeg"), ("opus", "audio/ogg")],
)
def test_words_are_spoken_one_after_the_other(client: TestClient, kind: str, media: str) -> None:
    answer = speak(client, input="high, low. mid high!", response_format=kind)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media
    words, rate = heard(answer.content)
    assert words == ["high", "low", "mid", "high"]
    assert rate == RATE or kind == "opus"
    assert answer.headers["x-genloom-seed"] == "5"
    assert answer.headers["x-genloom-version"] == "2"


def test_the_same_seed_says_the_same_and_each_word_is_drawn_anew(client: TestClient) -> None:
    first = speak(client, input="low low low", response_format="pcm").content
    assert speak(client, input="low low low", response_format="pcm").content == first
    assert speak(client, input="low low low", response_format="pcm", seed=6).content != first
    levels = np.frombuffer(first, "<i2")
    third = len(levels) // 3
    assert len({int(np.abs(levels[turn * third : (turn + 1) * third]).max()) for turn in range(3)}) == 3


def test_names_of_several_words_and_marks_are_found() -> None:
    classes = ("good", "good morning", "Sam", "b.", "7", "all right, then")
    assert spelled("Good morning, sam!", classes) == [1, 2]
    assert spelled("good Good, morning b. 7 7.", classes) == [0, 1, 3, 4, 4]
    assert spelled("All right, then . good", classes) == [5, 0]
    assert spelled(" , ... ", classes) == []
    assert spelled("good,sam;7", classes) == [0, 2, 4]
    assert spelled("b, B. b", ("b", "b.", "B.")) == [0, 2, 0]
    with pytest.raises(UserError, match="no class “morning”"):
        spelled("Sam morning", classes)


def test_what_would_be_too_much_or_of_no_format_is_told_before_it_is_made(
    client: TestClient, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = catalog.loaded["hum"].engine.tally.rows
    monkeypatch.setattr(speech, "LEVELS", 3 * SAMPLES)
    for answer in (speak(client, input="low " * 4), client.post(GENERATE, json={"model": "hum", "n": 4})):
        assert answer.status_code == 400
        assert "would have 8,000 samples (4 of 2,000) and may have 6,000" in answer.json()["error"]["message"]
    monkeypatch.setitem(vars(catalog.loaded["hum"].model.modality), "rate", 7000)
    for kind in ("mp3", "opus"):
        answer = speak(client, input="low", response_format=kind)
        assert answer.status_code == 400
        assert f"A file of “{kind}” cannot have 7000 samples a second" in answer.json()["error"]["message"]
    assert catalog.loaded["hum"].engine.tally.rows == before


def test_recordings_by_the_general_route(client: TestClient) -> None:
    answer = client.post(GENERATE, json={"model": "hum", "n": 3, "label": "mid", "seed": 9})
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [(one["media_type"], one["seed"], one["label"]) for one in data] == [
        ("audio/wav", 9, "mid"),
        ("audio/wav", 10, "mid"),
        ("audio/wav", 11, "mid"),
    ]
    assert all(heard(base64.b64decode(one["b64"]))[0] == ["mid"] for one in data)
    drawn = client.post(GENERATE, json={"model": "hum", "n": 30, "seed": 1}).json()["data"]
    assert {one["label"] for one in drawn} == set(WORDS), "the seed draws the class"
    assert all(heard(base64.b64decode(one["b64"]))[0] == [one["label"]] for one in drawn)
    assert client.post(GENERATE, json={"model": "drone"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"input": "low loud"}, 400, "There is no class “loud”"),
        ({"input": " , "}, 400, "“input” holds no word"),
        ({"input": ""}, 400, "“input”"),
        ({"input": "low " * 65}, 400, "has 65 words and may have 64"),
        ({"input": "low", "speed": 2}, 400, "“speed”"),
        ({"input": "low", "response_format": "aac"}, 400, "“response_format”"),
        ({"input": "low", "stream_format": "sse"}, 400, "“stream_format”"),
        (
            {"input": "low", "temperature": 0.5},
            400,
            "draws without “temperature”; leave it out (its options are guidance)",
        ),
        ({"input": "low", "model": "drone"}, 400, "knows no words"),
        ({"input": "low", "model": "tales"}, 400, "makes text; ask it at /v1/completions"),
        ({"input": "low", "model": "hun"}, 404, "did you mean hum"),
    ],
)
def test_what_cannot_be_spoken_is_one_sentence(
    client: TestClient, body: dict[str, Any], status: int, said: str
) -> None:
    answer = speak(client, **body)
    assert answer.status_code == status, answer.text
    message = answer.json()["error"]["message"]
    assert said in message
    assert "\n" not in message


def test_without_a_name_the_only_model_that_speaks_is_asked(client: TestClient) -> None:
    answer = client.post(SPEAK, json={"input": "high", "response_format": "wav"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-genloom-model"] == "hum"


def test_a_model_of_sound_says_what_it_knows(client: TestClient) -> None:
    about = client.get("/v1/models/hum").json()
    assert about["routes"] == [SPEAK, GENERATE]
    assert (about["classes"], about["rate"], about["task"]) == (list(WORDS), RATE, "label")
    assert about["options"] == {"guidance": 1.0}
    assert client.get("/v1/models/drone").json()["routes"] == [GENERATE]


def test_a_wavenet_speaks_at_a_temperature(tmp_path: Path) -> None:
    """Cold it takes the likeliest level whatever the seed; beside others and alone it says the same."""
    client = TestClient(create_app(Catalog({"whistle": whistle(tmp_path)})))
    assert client.get("/v1/models/whistle").json()["options"] == {"temperature": 1.0}

    def said(**body: Any) -> bytes:
        answer = speak(client, model="whistle", response_format="pcm", **body)
        assert answer.status_code == 200, answer.text
        content: bytes = answer.content
        return content

    assert said(seed=1) == said(seed=1, temperature=1) != said(seed=2)
    assert said(seed=1, temperature=0) == said(seed=2, temperature=0) != said(seed=1)
    body = {"model": "whistle", "seed": 7, "label": "mid"}
    several = client.post(GENERATE, json={**body, "n": 6, "temperature": 0.7}).json()["data"]
    single = client.post(GENERATE, json={**body, "seed": 12, "temperature": 0.7}).json()["data"]
    assert several[5]["b64"] == single[0]["b64"], "six rows take turns at four places"
    levels, rate = soundfile.read(io.BytesIO(base64.b64decode(single[0]["b64"])), dtype="int16")
    assert (len(levels), rate) == (RATE // 10, RATE)
    assert len(np.unique(levels)) > 20
    for field, sentence in (("temperature", "“temperature”"), ("guidance", "(its options are temperature)")):
        refused = speak(client, model="whistle", **{field: 3})
        assert refused.status_code == 400
        assert sentence in refused.json()["error"]["message"]


def test_pictures_and_chats_are_not_asked_of_a_model_of_sound(client: TestClient) -> None:
    for route in ("/v1/images/generations", "/v1/completions"):
        answer = client.post(route, json={"model": "hum", "prompt": "a"})
        assert answer.status_code == 400
        assert (
            "makes sound; ask it at /v1/audio/speech or /v1/generations" in answer.json()["error"]["message"]
        )


def test_the_openai_client_speaks(client: TestClient, tmp_path: Path) -> None:
    asking = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=client, max_retries=0)
    reply = asking.audio.speech.create(model="hum", voice="alloy", input="mid high")
    reply.write_to_file(tmp_path / "speech.mp3")
    assert heard((tmp_path / "speech.mp3").read_bytes())[0] == ["mid", "high"]
    with asking.audio.speech.with_streaming_response.create(
        model="hum", voice="alloy", input="low", response_format="wav"
    ) as streamed:
        assert heard(b"".join(streamed.iter_bytes()))[0] == ["low"]
    with pytest.raises(openai.BadRequestError, match="no class “loud”"):
        asking.audio.speech.create(model="hum", voice="alloy", input="loud")
