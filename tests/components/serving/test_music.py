"""Music over HTTP: the general route, MIDI and WAV, primes, lengths, jobs' rows and what is refused."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from fastapi.testclient import TestClient

from components.data.counterpoint import piece
from components.errors import UserError
from components.export import export_hf
from components.families.family import Shape
from components.modalities.midi import read_midi, write_midi
from components.modalities.playing import MusicRequest
from components.modalities.score import Score
from components.serving.catalog import Catalog
from components.serving.routes.application import create_app
from tests.components.serving.hum import hum
from tests.components.serving.songs import CONTEXT, songs

GENERATE = "/v1/generations"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("music")
    return Catalog({"songs": songs(root), "tunes": songs(root, "tunes", "events"), "hum": hum(root)})


@pytest.fixture(scope="module")
def client(catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def ask(client: TestClient, accept: str = "*/*", **body: Any) -> Any:
    content = {"model": "songs", "seed": 5, **body}
    return client.post(GENERATE, json=content, headers={"accept": accept})


def heard(one: dict[str, Any]) -> Score:
    return read_midi(base64.b64decode(one["b64"]), 1)


def coded(score: Score) -> str:
    return base64.b64encode(write_midi(score)).decode()


@pytest.mark.parametrize("model", ["songs", "tunes"])
def test_pieces_are_midi_files_with_their_seeds(client: TestClient, model: str) -> None:
    answer = ask(client, model=model, n=3, bars=4)
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [(one["media_type"], one["seed"]) for one in data] == [("audio/midi", 5 + row) for row in range(3)]
    scores = [heard(one) for one in data]
    assert len({score.notes for score in scores}) == 3
    assert all(score.length <= 16 for score in scores)
    alone = ask(client, model=model, seed=6, bars=4).json()["data"]
    assert alone == data[1:2], "each can be asked for alone"
    assert answer.headers["x-genloom-version"] == "2"


def test_options_of_sampling_are_taken(client: TestClient) -> None:
    first, second = (
        ask(client, seed=seed, temperature=0, bars=2).json()["data"][0]["b64"] for seed in (1, 2)
    )
    assert first == second, "without chance the seed does not matter"
    drawn = {ask(client, seed=seed, top_p=1.0, bars=2).json()["data"][0]["b64"] for seed in range(3)}
    assert len(drawn) == 3
    assert {ask(client, seed=seed, top_p=0.0, bars=2).json()["data"][0]["b64"] for seed in range(2)} == {
        first
    }


@pytest.mark.parametrize("model", ["songs", "tunes"])
def test_a_prime_goes_on(client: TestClient, model: str) -> None:
    prime = piece(3).cut(0, 8)
    answer = ask(client, model=model, prime=coded(prime), bars=3)
    assert answer.status_code == 200, answer.text
    score = heard(answer.json()["data"][0])
    begun = {(note.start, note.pitch) for note in score.cut(0, 8).notes}
    assert begun >= {(note.start, note.pitch) for note in prime.notes}
    assert model == "tunes" or len(begun) == len(prime.notes), "events may add to the last chord"
    assert 8 + (model == "songs") <= score.length <= 8 + 12
    assert score.tempo == pytest.approx(prime.tempo)


def test_a_long_prime_is_kept_whole(client: TestClient) -> None:
    whole = piece(1)
    answer = ask(client, prime=coded(whole))
    score = heard(answer.json()["data"][0])
    assert score.cut(0, 31).notes == whole.cut(0, 31).notes, "also what the model does not see any more"
    assert 32 < score.length <= 32 + CONTEXT // 8


def test_one_file_as_it_is(client: TestClient) -> None:
    whole = base64.b64decode(ask(client, bars=2).json()["data"][0]["b64"])
    alone = ask(client, "audio/midi", bars=2)
    assert (alone.headers["content-type"], alone.content) == ("audio/midi", whole)
    assert alone.headers["x-genloom-seed"] == "5"
    sound = ask(client, "audio/wav", bars=2)
    assert sound.headers["content-type"] == "audio/wav"
    assert soundfile.info(io.BytesIO(sound.content)).duration > 2
    coded_sound = ask(client, bars=2, response_format="wav").json()["data"][0]
    assert coded_sound["media_type"] == "audio/wav"
    assert base64.b64decode(coded_sound["b64"]) == sound.content
    several = ask(client, "audio/midi", n=2)
    assert several.status_code == 400
    assert "audio/midi is one file and “n” asks for 2" in several.json()["error"]["message"]
    hummed = client.post(GENERATE, json={"model": "hum", "seed": 1}, headers={"accept": "audio/wav"})
    assert hummed.content[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prime": "???"}, "“prime” is no Base64"),
        ({"prime": base64.b64encode(b"MThd").decode()}, "“prime” cannot be continued (a broken MIDI file)"),
        ({"model": "hum", "prime": coded(piece(1))}, "prime"),
        ({"bars": 0}, "bars"),
        ({"label": "7"}, "label"),
        ({"temperature": 3}, "temperature"),
        ({"response_format": "mp3"}, "response_format"),
        ({"prime": "é"}, "“prime” is no Base64"),
        ({"stream": True}, "stream"),
    ],
)
def test_what_is_wrong_is_one_sentence(client: TestClient, body: dict[str, Any], sentence: str) -> None:
    answer = ask(client, **body)
    assert answer.status_code == 400, answer.text
    assert sentence in answer.json()["error"]["message"]


def test_voices_that_do_not_fit_are_told(client: TestClient) -> None:
    solo = Score(tuple(note for note in piece(1).notes if not note.voice), piece(1).voices, 1, 32, 4)
    message = ask(client, prime=coded(solo)).json()["error"]["message"]
    assert (
        "(not of 4 voices); send a MIDI file with 4 tracks of one note at a time each (soprano, alto,"
        in message
    )
    assert ask(client, model="tunes", prime=coded(solo)).status_code == 200


def test_models_say_what_they_take(client: TestClient) -> None:
    about = client.get("/v1/models/songs").json()
    assert (about["modality"], about["routes"], about["notation"]) == ("music", [GENERATE], "grid")
    assert [voice["name"] for voice in about["voices"]] == ["soprano", "alto", "tenor", "bass"]
    assert (about["steps"], about["bar"], about["pitches"][0] < about["pitches"][1]) == (1, 4, True)
    wrong = client.post("/v1/images/generations", json={"model": "songs"})
    assert "makes music; ask it at /v1/generations" in wrong.json()["error"]["message"]
    described = client.get("/openapi.json").json()
    kinds = described["paths"][GENERATE]["post"]["requestBody"]["content"]["application/json"]["schema"][
        "anyOf"
    ]
    assert {"$ref": "#/components/schemas/MusicRequest"} in kinds
    assert "prime" in described["components"]["schemas"]["MusicRequest"]["properties"]


def test_jobs_know_what_they_make(catalog: Catalog) -> None:
    modality = catalog.loaded["songs"].model.modality
    assert modality.media(MusicRequest()) == "audio/midi"
    assert modality.media(MusicRequest(response_format="wav")) == "audio/wav"


def test_a_model_of_music_is_no_model_of_text(catalog: Catalog, tmp_path: Path) -> None:
    artifact = catalog.loaded["songs"].served.folder
    with pytest.raises(UserError, match=r"Hugging Face's format is for text, and .* makes music"):
        export_hf(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_versions_are_compared_by_their_pieces(catalog: Catalog) -> None:
    loaded = catalog.loaded["songs"]
    modality, shape = loaded.model.modality, loaded.model.shape
    probe = modality.probe(Shape(data=shape.data, vocabulary=shape.vocabulary), 7)
    order = loaded.order(probe)
    output = loaded.submit(probe, order.requests, 7).result()
    assert len(modality.variety(output)) == 8
    assert min(modality.variety(output)) > 0.5
