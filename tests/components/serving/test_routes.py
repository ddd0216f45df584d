from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from components.artifact import load
from components.families.family import Requests
from components.modalities.drawing import ImageRequest
from components.modalities.image import Image as ImageModality
from components.serving.catalog import Catalog, Served, open_catalog
from components.serving.routes.application import create_app
from components.settings import Settings

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def folder(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact(tmp_path_factory.mktemp("artifact") / "digits")


@pytest.fixture
def catalog(folder: Path, tmp_path: Path) -> Catalog:
    return open_catalog([Served("digits", 3, folder, 1_700_000_000)], Settings(home=tmp_path))


@pytest.fixture
def client(catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def pngs(answer: Any) -> list[bytes]:
    return [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]


def pixels(png: bytes) -> bytes:
    return Image.open(io.BytesIO(png)).tobytes()


def test_models_are_listed_as_openai_lists_them(client: TestClient) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("digits", "model", "genloom")
    assert (model["version"], model["family"], model["created"]) == (3, "vae", 1_700_000_000)
    assert client.get("/v1/models/digits").json() == model
    assert client.get("/v1/models/cats").status_code == 404


def test_an_answer_holds_pictures_and_names_what_drew_them(client: TestClient) -> None:
    answer = client.post(URL, json={"model": "digits", "n": 3, "size": "32x32", "seed": 7})
    assert answer.status_code == 200
    assert [Image.open(io.BytesIO(png)).size for png in pngs(answer)] == [(32, 32)] * 3
    assert answer.headers["x-genloom-model"] == "digits"
    assert answer.headers["x-genloom-version"] == "3"
    assert answer.headers["x-genloom-width"] == "16"
    assert answer.headers["x-genloom-seed"] == "7"
    assert answer.headers["x-request-id"]
    assert [item["seed"] for item in answer.json()["data"]] == [7, 8, 9]


def test_the_pictures_are_those_of_the_model(client: TestClient, folder: Path) -> None:
    import torch

    answer = client.post(URL, json={"n": 5, "seed": 11})
    output = load(folder).sample(Requests(seed=torch.arange(11, 16)))
    bare = ImageModality(None).encode(output, ImageRequest())
    assert [pixels(png) for png in pngs(answer)] == [pixels(png) for png in bare]


def test_picture_i_has_seed_plus_i(client: TestClient) -> None:
    four = pngs(client.post(URL, json={"n": 4, "seed": 20}))
    ones = [pngs(client.post(URL, json={"seed": seed}))[0] for seed in range(20, 24)]
    assert four == ones
    assert len(set(four)) == 4


def test_without_a_seed_pictures_differ_and_the_header_repeats_them(client: TestClient) -> None:
    first, second = client.post(URL, json={}), client.post(URL, json={})
    assert pngs(first) != pngs(second)
    seed = int(first.headers["x-genloom-seed"])
    assert pngs(client.post(URL, json={"seed": seed})) == pngs(first)


def test_health_tells_the_versions(client: TestClient, catalog: Catalog) -> None:
    answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "models": [{"id": "digits", "version": 3, "waiting": 0, "canary": None}],
    }
    assert client.get("/ready").json() == {"ready": True}
    catalog.close()
    assert client.get("/health").status_code == 503
    assert client.get("/ready").status_code == 503


def test_openai_fields_that_change_nothing_are_taken(client: TestClient) -> None:
    body = {"prompt": "", "quality": "auto", "background": "opaque", "output_format": "png", "user": "me"}
    assert client.post(URL, json=body).status_code == 200


BAD = [
    ({"n": 0}, "n", "“n” is 0"),
    ({"n": -1}, "n", "“n” is -1"),
    ({"n": 10**9}, "n", "“n” is 1000000000"),
    ({"n": "many"}, "n", '“n” is "many"'),
    ({"n": 1.5}, "n", "“n” is 1.5"),
    ({"n": True}, "n", "“n” is true"),
    ({"n": None}, "n", "“n” is null"),
    ({"seed": -1}, "seed", "“seed” is -1"),
    ({"seed": 2**63}, "seed", "“seed” is 9223372036854775808"),
    ({"size": "9x9"}, None, "The size 9x9 is no whole multiple"),
    ({"size": "huge"}, "size", '“size” is "huge"'),
    ({"size": "8" * 5000}, "size", '“size” is "8888'),
    ({"prompt": "a cat"}, None, "draws without a prompt"),
    ({"prompt": ["a"]}, "prompt", '“prompt” is ["a"]'),
    ({"sede": 1}, "sede", "There is no field “sede”; did you mean seed"),
    ({"response_format": "url"}, "response_format", '“response_format” is "url"'),
    ({"stream": "yes"}, "stream", '“stream” is "yes"'),
    ([], None, "must be a JSON object"),
    ("digits", None, "must be a JSON object"),
    (None, None, "must be a JSON object"),
]


@pytest.mark.parametrize(("body", "param", "said"), BAD, ids=[str(body)[:20] for body, _, _ in BAD])
def test_a_bad_request_gets_one_sentence(client: TestClient, body: Any, param: str | None, said: str) -> None:
    answer = client.post(URL, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert said in error["message"]
    assert error["message"].endswith((".", "?"))
    assert "\n" not in error["message"]
    assert len(error["message"]) < 300


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"n": }', b'{"n": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"n": ' + b"9" * 10_000 + b"}"],
    ids=["empty", "open", "no value", "nan", "no text", "deep", "long number"],
)
def test_malformed_json_gets_one_sentence(client: TestClient, content: bytes) -> None:
    answer = client.post(URL, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(answer.json()["error"]["message"]) < 300


def test_another_content_type_is_explained(client: TestClient) -> None:
    answer = client.post(URL, content=b'{"n": 1}', headers={"content-type": "text/plain"})
    assert answer.status_code == 400
    assert "content-type: application/json" in answer.json()["error"]["message"]


def test_an_unknown_model_is_404_with_the_nearest_name(client: TestClient) -> None:
    answer = client.post(URL, json={"model": "digts"})
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "There is no model “digts”; did you mean digits?",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_unknown_paths_and_methods_have_the_same_shape(client: TestClient) -> None:
    for answer, status in ((client.get("/v1/nothing"), 404), (client.get(URL), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["message"].endswith(".")


def test_a_body_of_more_than_a_mebibyte_is_413_announced_or_not(client: TestClient) -> None:
    large = b'{"user": "' + b"a" * 2**20 + b'"}'
    headers = {"content-type": "application/json"}
    pieces = (large[place : place + 65_536] for place in range(0, len(large), 65_536))
    for content in (large, pieces):
        answer = client.post(URL, content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
    small = b'{"user": "' + b"a" * (2**20 - 100) + b'"}'
    assert client.post(URL, content=small, headers=headers).status_code == 200


def test_a_full_queue_is_503_and_says_when_to_come_back(client: TestClient, catalog: Catalog) -> None:
    catalog.loaded["digits"].engine.queue = 10
    answer = client.post(URL, json={"n": 11})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "queue_full"
    assert client.post(URL, json={"n": 10}).status_code == 200


def test_a_failure_inside_the_model_is_500_without_a_traceback(
    client: TestClient, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = catalog.loaded["digits"]
    monkeypatch.setattr(type(loaded.model.family), "advance", lambda *_: 1 / 0)
    answer = client.post(URL, json={})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "generation_failed"
    assert "Traceback" not in answer.text


def test_what_nobody_foresaw_is_500_in_the_same_shape(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageModality, "encode", lambda *_: 1 / 0)
    answer = client.post(URL, json={})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "division" not in answer.text
    assert "Traceback" not in answer.text


def test_two_products_are_told_apart_by_name(
    artifact: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    other = artifact(tmp_path / "letters", "letters", seed=5)
    both = [Served("digits", 3, folder, 0), Served("letters", 1, other, 0)]
    with TestClient(create_app(open_catalog(both, Settings(home=tmp_path)))) as client:
        one = client.post(URL, json={"model": "digits", "seed": 1})
        two = client.post(URL, json={"model": "letters", "seed": 1})
        assert one.headers["x-genloom-version"] == "3"
        assert two.headers["x-genloom-version"] == "1"
        assert pngs(one) != pngs(two)
        nameless = client.post(URL, json={})
        assert nameless.status_code == 404
        assert "digits, letters" in nameless.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (r'{"model": "\ud800"}', {400, 404}, r"\ud800"),
        (r'{"size": "\ud800"}', {400}, r"\ud800"),
        (r'{"\ud800": 1}', {400}, r"“\ud800”"),
    ],
)
def test_half_a_character_is_a_wrong_value_and_no_failure(
    client: TestClient, body: str, status: set[int], said: str
) -> None:
    answer = client.post(URL, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [{"model": "m" * 900_000}, {"f" * 900_000: 1}])
def test_a_name_without_end_is_not_repeated_whole(client: TestClient, body: dict[str, Any]) -> None:
    answer = client.post(URL, json=body)
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 1000
    assert "…”" in answer.json()["error"]["message"]
