"""Pictures by class, by caption and with options, whole and streamed, asked of a family that paints what it is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from components.families.family import Requests, Shape
from components.modalities.conditions import Conditions
from components.modalities.tokenizer import train_tokenizer
from components.serving.catalog import Catalog, Loaded, Served, open_version
from components.serving.listening import Glimpse, Look
from components.serving.routes.application import create_app
from components.serving.routes.sketches import chosen
from components.settings import Settings
from tests.components.serving.painter import CLASSES, Painter, level, opened, served
from tests.until import until

URL = "/v1/images/generations"


@pytest.fixture(scope="module")
def catalog(artifact: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("painters")
    captions = train_tokenizer("bytes", [], 0, chat=False)
    data = (1, 8, 8)
    shapes = {
        "animals": Shape(data=data, classes=3),
        "emoji": Shape(data=(3, 8, 8), prompt=(12, captions.vocabulary)),
        "free": Shape(data=data),
    }
    kept = {"emoji": Conditions(captions=captions)}
    loaded = {name: served(root, name, Painter(), shape, kept.get(name)) for name, shape in shapes.items()}
    loaded["slow"] = served(root, "slow", Painter(pause=0.01), shapes["animals"])
    loaded["digits"] = open_version(Served("digits", 1, artifact(root / "vae"), 0), Settings(home=root))
    return Catalog(loaded)


@pytest.fixture(scope="module")
def client(catalog: Catalog) -> Iterator[TestClient]:
    with TestClient(create_app(catalog), raise_server_exceptions=False) as client:
        yield client


def draw(client: TestClient, model: str, **body: Any) -> list[dict[str, Any]]:
    answer = client.post(URL, json={"model": model, **body})
    assert answer.status_code == 200, answer.text
    return [{**item, "file": base64.b64decode(item["b64_json"])} for item in answer.json()["data"]]


def events(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = client.post(URL, json={"stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for event in answer.text.split("\n\n")[:-1]:
        name, data = event.split("\n")
        content = json.loads(data.removeprefix("data: "))
        assert name == f"event: {content['type']}"
        found.append({**content, "file": base64.b64decode(content["b64_json"])})
    return found


def refused(client: TestClient, said: str, **body: Any) -> None:
    answer = client.post(URL, json=body)
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert said in message
    assert message.endswith((".", "?"))
    assert "\n" not in message


@pytest.mark.parametrize("asked", [{"label": "owl"}, {"prompt": "owl"}, {"label": "owl", "prompt": " owl "}])
def test_a_class_is_asked_for_by_its_name(client: TestClient, asked: dict[str, str]) -> None:
    pictures = draw(client, "animals", n=2, seed=5, **asked)
    assert [picture["label"] for picture in pictures] == ["owl", "owl"]
    assert all(opened(picture["file"])[0, 0] == level(0.2) for picture in pictures)


def test_without_a_class_the_seed_draws_one(client: TestClient) -> None:
    pictures = draw(client, "animals", n=60, seed=100)
    labels = [picture["label"] for picture in pictures]
    assert set(labels) == set(CLASSES[:3])
    for picture in pictures:
        assert opened(picture["file"])[0, 0] == level(CLASSES.index(picture["label"]) / 10)
    assert draw(client, "animals", seed=117)[0]["file"] == pictures[17]["file"]


def test_a_caption_reaches_the_family_as_its_tokens(client: TestClient, catalog: Catalog) -> None:
    captions = catalog.loaded["emoji"].model.modality.conditions.captions  # type: ignore[attr-defined]
    (picture,) = draw(client, "emoji", prompt="a  red\nowl", seed=1)
    assert opened(picture["file"])[0, 0, 0] == level(sum(captions.encode("a red owl")) % 100 / 100)
    assert opened(draw(client, "emoji", seed=1)[0]["file"])[0, 0, 0] == level(0.0)
    refused(client, "“prompt” has 20 tokens and this model reads at most 12", model="emoji", prompt="a" * 20)


def test_options_reach_the_rows_of_their_request_alone(client: TestClient) -> None:
    (plain,) = draw(client, "animals", label="cat", seed=1)
    (guided,) = draw(client, "animals", label="cat", seed=1, guidance=4.5, steps=9)
    assert opened(plain["file"])[1, 0] == level(0.1)
    assert opened(guided["file"])[1, 0] == level(0.45)
    assert opened(plain["file"])[2, 0] == opened(guided["file"])[2, 0] == level(1.0)


def test_rows_with_and_without_options_stand_side_by_side(catalog: Catalog) -> None:
    engine = catalog.loaded["slow"].engine
    bare = Requests(seed=torch.arange(3), label=torch.zeros(3, dtype=torch.int64))
    full = Requests(
        seed=torch.arange(3),
        label=torch.zeros(3, dtype=torch.int64),
        options={"guidance": torch.tensor([2.0, 3.0, 4.0]), "steps": torch.tensor([1, 7, 3])},
    )
    first, second = engine.submit(bare), engine.submit(full)
    assert first.result(10)[:, 0, 1, 0].mul(10).round().tolist() == [1, 1, 1]
    assert second.result(10)[:, 0, 1, 0].mul(10).round().tolist() == [2, 3, 4]


REFUSED = [
    ({"model": "digits", "prompt": "a cat"}, "draws without a prompt"),
    ({"model": "digits", "label": "3"}, "knows no classes; leave “label” out"),
    ({"model": "digits", "steps": 5}, "draws without “steps”; leave it out (it has no such options)"),
    ({"model": "free", "guidance": 2}, "draws without “guidance”; leave it out (its options are steps)"),
    ({"model": "animals", "truncation": 0.5}, "its options are steps, guidance"),
    ({"model": "animals", "label": "owls"}, "There is no class “owls”; did you mean owl?"),
    (
        {"model": "animals", "prompt": "a blue whale"},
        "There is no class “a blue whale”; there are: cat, dog, owl",
    ),
    ({"model": "animals", "prompt": "cat", "label": "dog"}, "send one of them"),
    ({"model": "emoji", "label": "cat"}, "knows no classes"),
    ({"model": "animals", "steps": 0}, "“steps” is 0"),
    ({"model": "animals", "steps": 1001}, "“steps” is 1001"),
    ({"model": "animals", "guidance": -1}, "“guidance” is -1"),
    ({"model": "animals", "size": "4096x4096"}, "up to 2048 pixels"),
    ({"model": "animals", "partial_images": 4, "stream": True}, "“partial_images” is 4"),
    ({"model": "animals", "partial_images": 2}, "“partial_images” needs “stream”: true"),
]


@pytest.mark.parametrize(("body", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_what_a_model_cannot_do_is_one_sentence(client: TestClient, body: dict[str, Any], said: str) -> None:
    refused(client, said, **body)


def test_models_say_what_they_can_be_asked(client: TestClient) -> None:
    listed = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert (listed["animals"]["task"], listed["animals"]["classes"]) == ("label", list(CLASSES[:3]))
    assert listed["animals"]["options"] == {"steps": 4, "guidance": 1.0}
    assert listed["animals"]["routes"] == [URL]
    assert (listed["emoji"]["task"], listed["emoji"]["classes"]) == ("prompt", [])
    assert (listed["free"]["task"], listed["free"]["options"]) == ("free", {"steps": 4})
    assert listed["digits"]["routes"] == [URL, "/v1/images/variations"]


@pytest.mark.parametrize("partials", [0, 1, 3])
def test_a_stream_shows_pictures_on_their_way(client: TestClient, partials: int) -> None:
    body: dict[str, Any] = {"model": "animals", "label": "dog", "seed": 3, "steps": 8, "size": "16x16"}
    found = events(client, partial_images=partials, **body)
    assert [event["type"].rpartition(".")[2] for event in found] == [
        *["partial_image"] * partials,
        "completed",
    ]
    assert [event["partial_image_index"] for event in found[:-1]] == list(range(partials))
    shares = [opened(event["file"])[4, 0] for event in found]
    assert shares == [level(step / 8) for step in [*chosen(8, partials), 8]]
    assert (
        found[-1]["file"]
        == draw(client, "animals", **{key: body[key] for key in body if key != "model"})[0]["file"]
    )
    assert {key: found[-1][key] for key in ("size", "index", "seed", "label")} == {
        "size": "16x16",
        "index": 0,
        "seed": 3,
        "label": "dog",
    }
    assert found[-1]["usage"]["total_tokens"] == 0


def test_one_step_has_no_way_to_show(client: TestClient) -> None:
    found = events(client, model="digits", n=3, seed=3, partial_images=3)
    assert [event["type"] for event in found] == ["image_generation.completed"] * 3
    assert sorted(event["index"] for event in found) == [0, 1, 2]
    assert {event["seed"]: event["file"] for event in found} == {
        picture["seed"]: picture["file"] for picture in draw(client, "digits", n=3, seed=3)
    }


def test_partial_images_are_evenly_apart() -> None:
    assert chosen(10, 3) == [2, 5, 8]
    assert chosen(10, 0) == []
    assert chosen(2, 3) == [1]
    assert chosen(1, 3) == []


def test_who_stops_looking_frees_the_rows(catalog: Catalog) -> None:
    engine = catalog.loaded["slow"].engine
    seen: list[Glimpse] = []
    label = torch.zeros(6, dtype=torch.int64)
    options = {"steps": torch.full((6,), 500)}
    work = engine.submit(
        Requests(seed=torch.arange(6), label=label, options=options), look=Look({1, 2}, seen.append)
    )
    until(lambda: seen)
    before = engine.tally.steps
    assert work.cancel()
    until(lambda: not engine.busy)
    assert engine.tally.steps - before < 250, "of the 500 that a row takes"
    assert not any(glimpse.done for glimpse in seen)


def test_a_look_that_fails_ends_its_own_request_only(catalog: Catalog) -> None:
    engine = catalog.loaded["slow"].engine
    label = torch.zeros(2, dtype=torch.int64)

    def tell(glimpse: Glimpse) -> None:
        raise KeyError("gone")

    neighbour = engine.submit(Requests(seed=torch.arange(2), label=label))
    broken = engine.submit(Requests(seed=torch.arange(2), label=label), look=Look({1}, tell))
    with pytest.raises(Exception, match="KeyError"):
        broken.result(10)
    assert len(neighbour.result(10)) == 2
    assert engine.healthy


def test_a_failure_on_the_way_is_an_event(
    client: TestClient, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: Loaded = catalog.loaded["slow"]
    whole = type(loaded.model.family).advance

    def breaks(self: Painter, networks: Any, state: Any) -> Any:
        if bool((~state.done & (state.step == 2)).any()):
            raise RuntimeError("the brush broke")
        return whole(self, networks, state)

    monkeypatch.setattr(Painter, "advance", breaks)
    answer = client.post(URL, json={"model": "slow", "stream": True, "steps": 4, "partial_images": 3})
    assert answer.status_code == 200
    *_, last = answer.text.split("\n\n")[:-1]
    assert last.startswith("event: error\n")
    assert "the brush broke" in last
