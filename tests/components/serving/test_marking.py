"""What is let out carries its mark, whichever way it goes; the content and what records keep of it stay the same."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from components.labels import credentials, journal
from components.labels.formats import FORMATS, PNG, WAV, media_type_of, text_content
from components.labels.marker import open_marker
from components.labels.reading import read
from components.serving.catalog import Catalog, Loaded, Served, open_version
from components.serving.jobs import Jobs
from components.serving.lines import GATHER
from components.serving.records import Recorder, folder_of
from components.serving.records import read as read_records
from components.serving.routes.application import create_app
from components.serving.shards import write_shard
from components.settings import Settings
from components.terms import Labels, Terms
from tests.components.serving.conftest import Said
from tests.components.serving.hum import hum
from tests.components.serving.parrot import parrot

DRAW, GENERATE, SPEAK, READ = "/v1/images/generations", "/v1/generations", "/v1/audio/speech", "/v1/labels"
COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = Settings(home=tmp_path_factory.mktemp("home"))
    credentials.make(found)
    return found


def with_marks(loaded: Loaded, settings: Settings, **terms: Any) -> Loaded:
    served = replace(loaded.served, terms=Terms(**terms))
    marker = open_marker(served.product, served.version, loaded.model.digest, served.terms, settings)
    kept = journal.Journal(settings, served.product)
    return replace(loaded, served=served, marker=marker, journal=kept)


@pytest.fixture(scope="module")
def digits(artifact: Callable[..., Path], settings: Settings) -> Iterator[Loaded]:
    folder = artifact(settings.home / "artifact")
    loaded = open_version(Served("digits", 3, folder, 0, terms=Terms(labels="none")), settings)
    yield loaded
    loaded.engine.close()


@pytest.fixture(scope="module")
def jobs(settings: Settings) -> Jobs:
    return Jobs(settings.home / "jobs")


@pytest.fixture(scope="module")
def client(digits: Loaded, settings: Settings, jobs: Jobs) -> Iterator[TestClient]:
    """The digits under three names, and texts and sound with marks."""
    every: tuple[Labels, ...] = ("none", "metadata", "signed")
    named = {how: with_marks(digits, settings, labels=how) for how in every}
    named["seen"] = with_marks(digits, settings, visible=True)
    named["tales"] = with_marks(parrot(settings.home), settings)
    named["hum"] = with_marks(hum(settings.home), settings)
    recorder = Recorder(folder_of(settings), days=30)
    catalog = Catalog(named)
    app = create_app(
        catalog, recorder=recorder, jobs=jobs, reader=lambda file: read(file, settings, "The file")
    )
    app.state.catalog = catalog
    with TestClient(app, raise_server_exceptions=False) as found:
        yield found


def drawn(client: TestClient, model: str, request: str = "r", **body: Any) -> list[bytes]:
    answer = client.post(DRAW, json={"model": model, "seed": 7, **body}, headers={"x-request-id": request})
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]


@pytest.mark.parametrize("asked", [{"n": 3}, {"n": 20}, {"n": 2, "size": "64x64"}])
def test_a_mark_leaves_the_pixels_as_they_are(client: TestClient, asked: dict[str, Any]) -> None:
    bare, marked, signed = (drawn(client, how, **asked) for how in ("none", "metadata", "signed"))
    for files in (marked, signed):
        for file, own in zip(files, bare, strict=True):
            assert Image.open(io.BytesIO(file)).tobytes() == Image.open(io.BytesIO(own)).tobytes()
    assert marked == drawn(client, "metadata", **asked), "the same seed gives the same bytes"


def test_an_answer_says_in_three_places_that_a_model_made_it(client: TestClient, settings: Settings) -> None:
    answer = client.post(DRAW, json={"model": "metadata", "seed": 7, "n": 2})
    assert answer.headers["x-genloom-source-type"] == "trainedAlgorithmicMedia"
    digest = answer.headers["x-genloom-digest"]
    field = answer.json()["genloom"]
    assert (field["product"], field["version"], field["digest"]) == ("digits", 3, digest)
    for place, one in enumerate(answer.json()["data"]):
        found = read(base64.b64decode(one["b64_json"]), settings)
        assert found.verdict == "marked"
        assert found.statement is not None
        assert (found.statement.seed, found.statement.digest) == (7 + place, digest)
    assert read(answer.content, settings).verdict == "marked"
    bare = client.post(DRAW, json={"model": "none"})
    assert "genloom" not in bare.json()
    assert "x-genloom-digest" not in bare.headers
    assert b"Genloom" not in drawn(client, "none")[0]


def test_signed_pictures_are_signed_beside_the_loop(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    sealed = credentials.Sealer.seal

    def seal(*arguments: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return sealed(*arguments)

    monkeypatch.setattr(credentials.Sealer, "seal", seal)
    (file,) = drawn(client, "signed")
    assert read(file, settings).verdict == "signed"
    assert threads
    assert all(name.startswith("asyncio_") for name in threads), "of the pool beside the loop"


def test_marks_change_nothing_that_records_keep(client: TestClient, settings: Settings) -> None:
    names = ("none", "metadata", "signed", "seen")
    for name in names:
        drawn(client, name, request=f"same-{name}", n=2)
    deadline = threading.Event()
    for _ in range(100):
        found = [
            one for one in read_records(folder_of(settings, "digits")) if one.request.startswith("same-")
        ]
        if len(found) == len(names):
            break
        deadline.wait(0.1)
    assert len(found) == len(names)
    assert len({one.content for one in found}) == 1


def test_a_caption_is_seen_beneath_the_picture(client: TestClient) -> None:
    (plain,), (seen,) = drawn(client, "none", size="64x64"), drawn(client, "seen", size="64x64")
    own, whole = (np.asarray(Image.open(io.BytesIO(one))) for one in (plain, seen))
    assert np.array_equal(whole[:64], own)
    assert whole.shape[0] > 64


def test_streamed_pictures_are_marked(client: TestClient, settings: Settings) -> None:
    answer = client.post(DRAW, json={"model": "signed", "seed": 7, "n": 2, "stream": True})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    found = [read(base64.b64decode(one["b64_json"]), settings) for one in events]
    assert [one.verdict for one in found] == ["signed", "signed"]
    assert sorted(one.statement.seed for one in found if one.statement) == [7, 8]
    assert answer.headers["x-genloom-source-type"] == "trainedAlgorithmicMedia"


def text_body(**more: Any) -> dict[str, Any]:
    return {"model": "tales", "prompt": "hello", "max_tokens": 8, "temperature": 0, "seed": 7, **more}


def test_texts_are_marked_in_a_field_with_their_hashes(client: TestClient, settings: Settings) -> None:
    answer = client.post(COMPLETE, json=text_body(n=2))
    field, texts = answer.json()["genloom"], [one["text"] for one in answer.json()["choices"]]
    assert field["contents"] == [text_content(text.encode()) for text in texts]
    assert read(answer.content, settings).verdict == "marked"
    altered = answer.content.replace(texts[0].encode(), b"something else")
    assert read(altered, settings).verdict == "altered"
    chat = {"model": "tales", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    assert read(client.post(CHAT, json=chat).content, settings).verdict == "marked"


def test_the_first_chunk_of_a_stream_says_it_for_all(client: TestClient) -> None:
    answer = client.post(COMPLETE, json=text_body(stream=True))
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert [("genloom" in one) for one in chunks] == [True] + [False] * (len(chunks) - 1)
    assert chunks[0]["genloom"]["product"] == "tales"


def test_a_stripped_file_of_a_server_is_known(client: TestClient, settings: Settings) -> None:
    (file,) = drawn(client, "metadata", request="r-stripped", seed=99)
    stream = io.BytesIO()
    Image.open(io.BytesIO(file)).save(stream, "PNG")
    streamed = client.post(COMPLETE, json=text_body(prompt="a stream", stream=True))
    said = "".join(
        json.loads(line[6:])["choices"][0]["text"]
        for line in streamed.text.splitlines()
        if line.startswith("data: {")
    )
    threading.Event().wait(GATHER + 0.5)
    found = read(stream.getvalue(), settings)
    assert found.verdict == "stripped"
    assert found.issued is not None
    assert (found.issued.request, found.issued.seed) == ("r-stripped", 99)
    assert read(said.encode(), settings).verdict == "stripped"


@pytest.mark.parametrize("kind", ["wav", "mp3", "opus", "flac"])
def test_speech_is_marked(client: TestClient, settings: Settings, kind: str) -> None:
    body = {"model": "hum", "input": "low high", "response_format": kind, "seed": 5}
    answer = client.post(SPEAK, json=body)
    found = read(answer.content, settings)
    assert (found.verdict, found.statement and found.statement.name) == ("marked", "hum/2")
    levels = client.post(SPEAK, json={**body, "response_format": "pcm"})
    assert levels.headers["x-genloom-source-type"] == "trainedAlgorithmicMedia"


def test_the_general_route_marks_as_the_others_do(client: TestClient, settings: Settings) -> None:
    for model, media in (("metadata", PNG), ("hum", WAV)):
        answer = client.post(GENERATE, json={"model": model, "seed": 7}).json()
        assert answer["genloom"]["version"] in (2, 3)
        file = base64.b64decode(answer["data"][0]["b64"])
        assert media_type_of(file) == media
        assert FORMATS[media].found(file) is not None
    (same,) = drawn(client, "metadata")
    assert (
        base64.b64decode(
            client.post(GENERATE, json={"model": "metadata", "seed": 7}).json()["data"][0]["b64"]
        )
        == same
    )


@pytest.mark.parametrize("model", ["metadata", "tales"])
def test_rows_of_a_job_and_its_file_are_marked(
    client: TestClient, jobs: Jobs, settings: Settings, model: str
) -> None:
    asked = {"prompt": "hello", "max_tokens": 4} if model == "tales" else {}
    ordered = client.post("/v1/jobs", json={"model": model, "n": 5, "seed": 7, "request": asked})
    assert ordered.status_code == 202, ordered.text
    job, _ = jobs.get(ordered.json()["id"])
    loaded = client.app.state.catalog.loaded[model]  # type: ignore[attr-defined]
    for place in jobs.missing(job):
        write_shard(loaded, job, place, jobs.data(job), lambda: False)
    (shard,) = jobs.data(job).glob("*.parquet")
    found = read(shard.read_bytes(), settings)
    assert (found.verdict, found.statement and found.statement.product) == ("marked", loaded.served.product)
    table = pq.read_table(shard)
    if model == "metadata":
        files = table.column("content").to_pylist()
        assert [one.statement.seed for file in files if (one := read(file, settings)).statement] == [
            *range(7, 12)
        ]
        changed = table.set_column(1, "content", pa.array(files[::-1]))
        altered = io.BytesIO()
        pq.write_table(changed.replace_schema_metadata(pq.ParquetFile(shard).metadata.metadata), altered)
        assert read(altered.getvalue(), settings).verdict == "altered"


def test_applications_may_ask_what_a_file_says(client: TestClient) -> None:
    (file,) = drawn(client, "signed")
    as_form = client.post(READ, files={"file": ("a.png", file, "image/png")}).json()
    as_json = client.post(READ, json={"file": base64.b64encode(file).decode()}).json()
    lately = ("issued", "sentence")  # what was given out is written down a moment later
    known, again = ({**told, **dict.fromkeys(lately)} for told in (as_form, as_json))
    assert known == again
    assert (as_form["object"], as_form["verdict"], as_form["media_type"]) == ("label", "signed", PNG)
    assert as_form["statement"]["product"] == "digits"
    for wrong, sentence in (({"file": ""}, "is empty"), ({"file": "!"}, "no Base64"), ({}, "missing")):
        answer = client.post(READ, json=wrong)
        assert answer.status_code == 400, answer.text
        assert sentence in answer.json()["error"]["message"]


def reading(said: Said) -> dict[str, Any]:
    assert said.code == 0, said.err
    return dict(json.loads(said.out))


def test_what_commands_write_is_marked(genloom: Callable[..., Said], tmp_path: Path) -> None:
    assert genloom("generate", "digits", "-n", "4", "--seed", "7", "-o", tmp_path / "grid.png").code == 0
    found = reading(genloom("labels", "read", tmp_path / "grid.png", "--json"))
    assert (found["verdict"], found["statement"]["product"], found["standing"]) == (
        "marked",
        "digits",
        "champion",
    )
    (tmp_path / "many").mkdir()
    assert genloom("generate", "digits", "-n", "2", "--seed", "7", "-o", tmp_path / "many").code == 0
    for path in (tmp_path / "many").glob("*.png"):
        found = reading(genloom("labels", "read", path, "--json"))
        assert (found["verdict"], f"-{found['statement']['seed']}.png" in path.name) == ("marked", True)
    text = tmp_path / "out.txt"
    assert (
        genloom("generate", "tales", "--prompt", "hi", "--max-tokens", "5", "--seed", "7", "-o", text).code
        == 0
    )
    assert reading(genloom("labels", "read", text, "--json"))["verdict"] == "marked"
    text.write_text("mine")
    said = genloom("labels", "read", text)
    assert said.code == 1
    assert "is not as it was made" in said.err
    said = genloom("labels", "read", tmp_path / "nothing.png")
    assert said.code == 2
    assert "cannot be read" in said.err


def test_a_key_is_made_once_and_what_lacks_it_is_told(genloom: Callable[..., Said], site: Any) -> None:
    tables = site.root / "params.yaml"
    before = tables.read_text(encoding="utf-8")
    tables.write_text(
        before.replace("  tales: {dataset: digits,", "  tales: {labels: signed, dataset: digits,")
    )
    try:
        said = genloom("serve", "tales", "--detach")
        assert said.code == 2
        assert "make one with genloom labels init" in said.err
        assert genloom("labels", "init", "--key", "k.pem").code == 2
        said = genloom("labels", "init")
        assert said.code == 0, said.err
        assert "serve tales again" in said.out
        assert genloom("labels", "init").code == 2
    finally:
        tables.write_text(before, encoding="utf-8")
