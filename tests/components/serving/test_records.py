"""Records of requests: what is kept of them, for how long, and that the same request gives the same again."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from components.artifact import load, save
from components.families.family import Requests, Shape
from components.families.gan import GAN
from components.families.layers.onednn import there
from components.promotion.registry import Registry
from components.serving.catalog import Served, open_catalog
from components.serving.keys import Keyring
from components.serving.lines import prune
from components.serving.records import HELD, SMALL, Record, Recorder, content_hash, folder_of, read
from components.serving.replay import replay
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.terms import Policy, Terms
from tests.components.families.rows import an_about
from tests.components.serving.conftest import Said, Site, register
from tests.components.serving.hum import speaker

GENERATE = "/v1/generations"
DRAW, EDIT, COMPLETE = "/v1/images/generations", "/v1/images/edits", "/v1/completions"
POLICIES: dict[str, Policy] = {"digits": "hash", "tales": "full", "holes": "full", "kinds": "none"}


def terms(product: str) -> Terms:
    """The policy, and for holes a precision, without which a replay gives something else."""
    return Terms(POLICIES[product], precision="bf16" if product == "holes" else "fp32")


def a_hole() -> str:
    """A picture of which a quarter is transparent, in Base64."""
    pixels = np.full((16, 16, 4), 200, np.uint8)
    pixels[:8, :8, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return b64encode(file.getvalue()).decode("ascii")


@pytest.fixture(scope="module")
def answered(site: Site, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Requests to three products that keep hashes, everything and nothing; their answers by name."""
    registry = Registry(site.settings)
    champions = [registry.version(name, "champion") for name in POLICIES]
    served = [
        Served(one.product, one.number, registry.fetch(one), 0, terms=terms(one.product)) for one in champions
    ]
    ring = Keyring(tmp_path_factory.mktemp("keys") / "keys.json")
    key, secret = ring.create("shop")
    catalog = open_catalog(served, site.settings)
    app = create_app(
        catalog, Access(ring, required=True), recorder=Recorder(folder_of(site.settings), days=30)
    )
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "drawn": (DRAW, {"model": "digits", "n": 2, "user": "alice"}),
        "told": (COMPLETE, {"model": "tales", "prompt": "A secret", "max_tokens": 8}),
        "streamed": (COMPLETE, {"model": "tales", "prompt": "A secret", "max_tokens": 8, "stream": True}),
        "kind": (DRAW, {"model": "kinds", "label": "owl"}),
        "filled": (EDIT, {"model": "holes", "image": a_hole()}),
        "made": (GENERATE, {"model": "tales", "prompt": "Once", "max_tokens": 4, "n": 2}),
        "wrong": (DRAW, {"model": "digits", "n": 0}),
    }
    with TestClient(app, headers={"authorization": f"Bearer {secret}"}) as client:
        answers = {
            name: client.post(route, json=body, headers={"x-request-id": f"request-{name}"})
            for name, (route, body) in asked.items()
        }
    assert [answer.status_code for answer in answers.values()] == [200, 200, 200, 200, 200, 200, 400]
    return {"key": key.id, **answers}


def records(site: Site, product: str) -> dict[str, Record]:
    """Those of this module; a real server of the same site keeps others."""
    found = read(folder_of(site.settings, product))
    return {record.request: record for record in found if record.request.startswith("request-")}


def test_a_record_has_hashes_and_not_what_was_asked(site: Site, answered: dict[str, Any]) -> None:
    (record,) = records(site, "digits").values()
    assert record.request == "request-drawn"
    assert (record.key, record.route, record.outcome) == (answered["key"], DRAW, "done")
    assert (record.product, record.version, record.rows) == ("digits", 1, 2)
    assert record.seed == int(answered["drawn"].headers["x-genloom-seed"])
    assert record.body is None
    assert record.content is not None
    text = "".join(path.read_text() for path in folder_of(site.settings, "digits").iterdir())
    assert "alice" not in text


def test_a_full_record_has_the_prompt_and_none_has_no_record(site: Site, answered: dict[str, Any]) -> None:
    assert records(site, "kinds") == {}
    found = records(site, "tales")
    assert set(found) == {"request-told", "request-streamed", "request-made"}
    assert found["request-told"].body == {"prompt": ["A secret"], "max_tokens": 8}
    assert found["request-told"].asked == found["request-streamed"].asked


def test_a_recorded_request_gives_the_same_again(
    site: Site, answered: dict[str, Any], genloom: Callable[..., Said], tmp_path: Path
) -> None:
    for name in ("told", "streamed", "made"):
        said = genloom("records", "replay", "tales", f"request-{name}", "--json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["same"] is True
    said = genloom("records", "replay", "digits", "request-drawn")
    assert said.code == 2
    assert "give the whole with --body FILE" in said.err
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"n": 2, "user": "alice"}))
    assert genloom("records", "replay", "digits", "request-drawn", "--body", body).code == 0
    body.write_text(json.dumps({"n": 3, "user": "alice"}))
    said = genloom("records", "replay", "digits", "request-drawn", "--body", body)
    assert said.code == 2
    assert "the hashes differ" in said.err
    said = genloom("records", "replay", "digits", "request-nobody")
    assert said.code == 2
    assert "There is no record of a request 'request-nobody'" in said.err


def test_recorded_speech_gives_the_same_again(site: Site, tmp_path: Path) -> None:
    registry = Registry(site.settings)
    version = register(registry, speaker(tmp_path), "notes", "vqvae")
    served = Served("notes", version.number, registry.fetch(version), 0, terms=Terms("full"))
    recorder = Recorder(tmp_path / "records", days=30)
    app = create_app(open_catalog([served], site.settings), recorder=recorder)
    body = {"model": "notes", "input": "low high low", "voice": "alloy", "response_format": "flac"}
    with TestClient(app) as client:
        answer = client.post("/v1/audio/speech", json=body)
    assert answer.status_code == 200, answer.text
    (record,) = read(tmp_path / "records" / "notes")
    assert (record.route, record.rows, record.seed) == (
        "/v1/audio/speech",
        3,
        int(answer.headers["x-genloom-seed"]),
    )
    assert replay(site.settings, record, Terms()).same


@pytest.mark.skipif(not there(), reason="packed layers are for x86 with oneDNN")
def test_what_was_answered_before_layers_were_packed_is_replayed_without(site: Site, tmp_path: Path) -> None:
    shape, family = Shape(data=(1, 28, 28)), GAN()
    about = an_about(shape)
    save(tmp_path / "gan", family, family.networks(shape), shape, replace(about, product="old"))
    registry = Registry(site.settings)
    version = register(registry, tmp_path / "gan", "old", "gan")
    served = Served("old", version.number, registry.fetch(version), 0)
    app = create_app(open_catalog([served], site.settings), recorder=Recorder(tmp_path / "records", days=30))
    body = {"model": "old", "seed": 7}
    with TestClient(app) as client:
        assert client.post(DRAW, json=body).status_code == 200
    (record,) = read(tmp_path / "records" / "old")
    assert record.packed
    assert replay(site.settings, record, Terms(), body).same
    older = replay(site.settings, replace(record, packed=False), Terms(), body)
    plain = load(tmp_path / "gan", packed=False).sample(Requests(seed=torch.tensor([7])), record.width)
    assert older.content == content_hash(plain)


def test_of_an_uploaded_picture_only_the_hash_is_kept(
    site: Site, answered: dict[str, Any], genloom: Callable[..., Said], tmp_path: Path
) -> None:
    record = records(site, "holes")["request-filled"]
    assert record.body is not None
    assert str(record.body["image"]).startswith("['sha256:")
    assert record.precision == "bf16"
    said = genloom("records", "replay", "holes", "request-filled")
    assert (said.code, "give the whole with --body FILE" in said.err) == (2, True)
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"image": a_hole()}))
    said = genloom("records", "replay", "holes", "request-filled", "--body", body, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["same"] is True


def test_another_content_is_told(
    site: Site, answered: dict[str, Any], genloom: Callable[..., Said], tmp_path: Path
) -> None:
    record = replace(records(site, "tales")["request-told"], request="request-forged", content="0" * 64)
    with (folder_of(site.settings, "tales") / "2000-01-01.jsonl").open("w") as stream:
        stream.write(json.dumps(asdict(record)) + "\n" + '{"at": "cut off')
    said = genloom("records", "replay", "tales", "request-forged")
    assert said.code == 1
    assert "gives other content now" in said.err


def test_the_list_shows_the_newest_first(
    site: Site, answered: dict[str, Any], genloom: Callable[..., Said]
) -> None:
    listed = json.loads(genloom("records", "list", "tales", "-n", "2", "--json").out)
    assert [one["request"] for one in listed] == ["request-made", "request-streamed"]
    assert "request-drawn" in genloom("records", "list", "digits").out
    said = genloom("records", "list", "mnist")
    assert "No request to mnist is on record; its records are “hash”." in said.out
    assert genloom("records", "list", "nothing").code == 2


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    found = Recorder(tmp_path / "records", days=7)
    yield found
    found.close()


def a_record(product: str = "digits") -> Record:
    return Record(
        *("2026-01-01T00:00:00.000+00:00", "r", None, DRAW, product),
        *(1, "a" * 64, 64, 1, 7, 1, "done", 0.1, "b" * 64, "c" * 64),
    )


def test_old_days_are_deleted_and_other_files_are_left(tmp_path: Path) -> None:
    folder = tmp_path / "records" / "digits"
    folder.mkdir(parents=True)
    today = datetime.now(UTC).date()
    for days in (0, 7, 8, 400):
        (folder / f"{today - timedelta(days=days)}.jsonl").write_text("")
    (folder / "notes.jsonl").write_text("")
    recorder = Recorder(tmp_path / "records", days=7)
    recorder.put(a_record)
    recorder.close()
    kept = {path.stem for path in folder.iterdir()}
    assert kept == {"notes", str(today), str(today - timedelta(days=7))}
    assert prune(folder, 7) == []


def test_a_disk_that_refuses_ends_nothing(tmp_path: Path, recorder: Recorder) -> None:
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "digits").write_text("a file in the way")
    recorder.put(a_record)
    recorder.put(lambda: a_record("tales"))
    recorder.close()
    assert [record.product for record in read(tmp_path / "records" / "tales")] == ["tales"]


def test_none_of_a_burst_is_lost(tmp_path: Path, recorder: Recorder) -> None:
    over = Event()

    def slow() -> Record:  # as of a large answer: the small ones do not wait for it
        over.wait(30)
        return a_record()

    recorder.put(slow, SMALL + 1)
    for number in range(2500):
        recorder.put(lambda number=number: replace(a_record(), request=str(number)))
    over.set()
    recorder.close()
    kept = [record.request for record in read(tmp_path / "records" / "digits")]
    assert kept == ["r", *map(str, range(2499, -1, -1))]


def test_what_waits_for_a_slow_disk_is_bounded_in_bytes(
    tmp_path: Path, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    over = Event()

    def slow() -> Record:
        over.wait(30)
        return a_record()

    recorder.put(slow, SMALL + 1)
    for number in range(5):
        recorder.put(lambda number=number: replace(a_record(), request=str(number)), HELD // 4)
    assert caplog.text.count("a record was lost") == 2
    over.set()
    recorder.close()
    kept = [record.request for record in read(tmp_path / "records" / "digits")]
    assert kept == ["2", "1", "0", "r"]


@pytest.mark.parametrize("name", ["a\x85b", "a\u2028b", "a\rb"])
def test_a_record_with_a_strange_name_is_read_again(tmp_path: Path, recorder: Recorder, name: str) -> None:
    recorder.put(lambda: replace(a_record(), request=name))
    recorder.close()
    assert [record.request for record in read(tmp_path / "records" / "digits")] == [name]


def test_old_days_of_products_that_nobody_asks_any_more_are_deleted(tmp_path: Path) -> None:
    gone = tmp_path / "records" / "gone" / "2020-01-01.jsonl"
    gone.parent.mkdir(parents=True)
    gone.write_text("")
    Recorder(tmp_path / "records", days=7).close()
    assert not gone.exists()
