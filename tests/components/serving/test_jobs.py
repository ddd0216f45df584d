"""Jobs without a cluster: how they are ordered, seen, bounded, cut into shards and cancelled; and /v1/generations."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient
from filelock import FileLock
from PIL import Image

from components.families.family import Requests, Shape
from components.serving import bulk
from components.serving.catalog import Catalog
from components.serving.jobs import LARGEST, MOST, OPEN, SMALLEST, Jobs, State, part, rows_of
from components.serving.keys import Keyring
from components.serving.making import ready
from components.serving.routes.access import Access
from components.serving.routes.application import create_app
from components.serving.shards import StoppedError, open_job, write_shard
from components.settings import Settings
from tests.components.serving.hum import hum
from tests.components.serving.painter import Painter, mirrors, picture, saved, served

JOBS, GENERATE = "/v1/jobs", "/v1/generations"


def deep(count: int) -> Any:
    """So many lists inside one another."""
    return json.loads("[" * count + "]" * count)


@pytest.fixture(scope="module")
def catalog(text_catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The parrots, the digits, a painter of three classes and mirrors."""
    root = tmp_path_factory.mktemp("jobs")
    animals = served(root, "beasts", Painter(), Shape(data=(1, 8, 8), classes=3))
    return Catalog(
        {**text_catalog.loaded, "beasts": animals, "noise": mirrors(root)["noise"], "hum": hum(root)}
    )


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")


@pytest.fixture
def client(catalog: Catalog, jobs: Jobs) -> TestClient:
    """Without the end of the application, which would close what other tests use."""
    return TestClient(create_app(catalog, jobs=jobs), raise_server_exceptions=False)


def ordered(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def rows(jobs: Jobs, catalog: Catalog, name: str) -> dict[str, list[Any]]:
    """What a job writes, by the models that are there."""
    job, _ = jobs.get(name)
    loaded = catalog.loaded[job.product]
    for place in jobs.missing(job):
        write_shard(loaded, job, place, jobs.data(job), lambda: False)
    assert not jobs.missing(job)
    return dict(pq.read_table(jobs.data(job)).to_pydict())


def test_generations_answer_for_every_modality(client: TestClient) -> None:
    answer = client.post(GENERATE, json={"model": "beasts", "n": 5, "seed": 3, "label": "dog"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model"], answer.headers["x-genloom-seed"]) == ("beasts", "3")
    data = answer.json()["data"]
    assert [(one["seed"], one["label"], one["media_type"]) for one in data] == [
        (seed, "dog", "image/png") for seed in range(3, 8)
    ]
    assert Image.open(io.BytesIO(base64.b64decode(data[0]["b64"]))).size == (8, 8)

    asked = {"model": "tales", "prompt": "abc", "temperature": 0, "max_tokens": 30, "stop": "c", "seed": 1}
    (said,) = client.post(GENERATE, json=asked).json()["data"]
    assert base64.b64decode(said["b64"]) == b"ab"
    assert (said["media_type"], said["finish_reason"]) == ("text/plain; charset=utf-8", "stop")

    image = base64.b64encode(saved(picture(16, 16, 1))).decode()
    (seen,) = client.post(GENERATE, json={"model": "noise", "image": image}).json()["data"]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(seen["b64"]))))
    assert np.array_equal(drawn, picture(16, 16, 1))


def test_a_job_of_sound_writes_what_the_route_answers(
    client: TestClient, jobs: Jobs, catalog: Catalog
) -> None:
    job = ordered(client, model="hum", n=6, seed=4, request={"label": "mid"})
    found = rows(jobs, catalog, job["id"])
    answer = client.post(GENERATE, json={"model": "hum", "n": 6, "seed": 4, "label": "mid"}).json()["data"]
    assert found["content"] == [base64.b64decode(one["b64"]) for one in answer]
    assert found["label"] == ["mid"] * 6
    assert client.get(f"{JOBS}/{job['id']}").json()["media_type"] == "audio/wav"


def test_generations_are_those_of_the_models_own_routes(client: TestClient) -> None:
    body = {"model": "digits", "n": 3, "seed": 5}
    ours = [one["b64"] for one in client.post(GENERATE, json=body).json()["data"]]
    theirs = [one["b64_json"] for one in client.post("/v1/images/generations", json=body).json()["data"]]
    assert ours == theirs


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"model": "digits", "sede": 1}, 400, "sede", "did you mean seed"),
        ({"model": "tales", "size": "8x8"}, 400, "size", "There is no field “size”;"),
        ({"model": "digits", "n": 0}, 400, "n", "“n” is 0"),
        ({"model": "digits", "stream": True}, 400, None, "“stream” is for the model's own route"),
        ({"model": "tales", "logprobs": 2}, 400, None, "“logprobs” is for"),
        ({"model": "digts"}, 404, "model", "did you mean digits"),
        ({"model": 3}, 400, "model", "“model” is 3"),
        ({}, 404, "model", "Set “model” to one of the models"),
        ([], 400, None, "must be a JSON object"),
    ],
)
def test_generations_refuse_as_the_other_routes_do(
    client: TestClient, body: Any, status: int, param: str | None, said: str
) -> None:
    answer = client.post(GENERATE, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert said in answer.json()["error"]["message"]


def test_a_job_is_queued_and_its_rows_are_those_of_the_routes(
    client: TestClient, jobs: Jobs, catalog: Catalog
) -> None:
    job = ordered(client, model="beasts", n=300, seed=2**63 - 100, request={"label": "owl"})
    assert (job["status"], job["n"], job["done"], job["version"]) == ("queued", 300, 0, 2)
    made = rows(jobs, catalog, job["id"])
    assert made["seed"] == [(2**63 - 100 + row) % 2**63 for row in range(300)]
    assert set(made["label"]) == {"owl"}
    for row in (0, 150, 299):
        asked = {"model": "beasts", "seed": made["seed"][row], "label": "owl"}
        (one,) = client.post(GENERATE, json=asked).json()["data"]
        assert base64.b64decode(one["b64"]) == made["content"][row]


def test_a_job_of_text_obeys_its_stop_text(client: TestClient, jobs: Jobs, catalog: Catalog) -> None:
    request = {"prompt": "abc", "temperature": 0, "max_tokens": 30, "stop": "c"}
    made = rows(jobs, catalog, ordered(client, model="tales", n=5, seed=0, request=request)["id"])
    assert made == {"seed": [0, 1, 2, 3, 4], "text": ["ab"] * 5, "finish_reason": ["stop"] * 5}


def test_a_picture_to_work_on_may_be_larger_than_other_bodies(client: TestClient) -> None:
    for size, status in ((2**20, 400), (2**25, 413)):  # digits take no picture
        body = {"n": 5, "model": "digits", "request": {"image": "A" * size}}
        assert client.post("/v1/jobs", json=body).status_code == status


def test_pictures_that_are_too_large_for_one_answer_come_a_few_at_a_time(
    client: TestClient, jobs: Jobs
) -> None:
    large = ordered(client, model="digits", n=200, request={"size": "1024x1024"})
    assert jobs.get(large["id"])[0].at_once == 16
    assert jobs.get(ordered(client, model="digits", n=200)["id"])[0].at_once == 128


def test_a_shard_that_is_there_is_kept_and_one_that_was_stopped_leaves_nothing(
    client: TestClient, jobs: Jobs, catalog: Catalog
) -> None:
    job, _ = jobs.get(ordered(client, model="digits", n=300, seed=0)["id"])
    folder, loaded = jobs.data(job), catalog.loaded["digits"]
    write_shard(loaded, job, 1, folder, lambda: False)
    assert jobs.missing(job) == [0, 2]
    first = (folder / part(1)).read_bytes()
    with pytest.raises(StoppedError):
        write_shard(loaded, job, 0, folder, lambda: True)
    assert sorted(path.name for path in folder.iterdir()) == [part(1)]
    (folder / part(1)).unlink()
    write_shard(loaded, job, 1, folder, lambda: False)
    assert (folder / part(1)).read_bytes() == first


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({}, 400, "n", "“n” is missing"),
        ({"n": 0}, 400, "n", "“n” is 0"),
        ({"n": MOST + 1}, 400, "n", f"“n” is {MOST + 1}"),
        ({"n": 5, "workers": 65}, 400, "workers", "“workers” is 65"),
        ({"n": 5, "model": "digts"}, 404, "model", "did you mean digits"),
        ({"n": 5, "request": [1]}, 400, "request", '“request” is "1 entries"'),
        ({"n": 5, "sede": 1}, 400, "sede", "did you mean seed"),
        ({"n": 5, "request": {"sise": "8x8"}}, 400, "request.sise", "did you mean size"),
        ({"n": 5, "request": {"size": "9x9"}}, 400, None, "The size 9x9 is no whole multiple"),
        ({"n": 5, "request": {"seed": 1}}, 400, None, "“seed” stands in “request”"),
        ({"n": 5, "request": {"stream": True}}, 400, None, "“stream” is for the model's own route"),
        (
            {"n": 5, "model": "tales", "request": {"prompt": ["a", "b"]}},
            400,
            None,
            "one prompt, picture or class",
        ),
        ({"n": 5, "model": "tales", "request": {"prompt": "a" * 99}}, 400, "prompt", "tokens"),
        ({"n": 5, "request": {"label": "cat"}}, 400, None, "knows no classes"),
        ({"n": 5, "request": {"user": deep(70)}}, 400, None, "lists are too deep"),
        ({"n": 5, "request": {"user": deep(60)}}, 400, "request.user", "valid string"),
    ],
)
def test_a_job_that_cannot_be_is_refused_when_it_is_ordered(
    client: TestClient, jobs: Jobs, body: dict[str, Any], status: int, param: str | None, said: str
) -> None:
    answer = client.post(JOBS, json={"model": "digits", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text
    assert said in answer.json()["error"]["message"]
    assert jobs.ids() == []


def test_jobs_are_listed_in_pages_the_newest_first(client: TestClient) -> None:
    names = [ordered(client, model="digits", n=1)["id"] for _ in range(5)]
    names.sort(reverse=True)
    first = client.get(f"{JOBS}?limit=3").json()
    assert ([one["id"] for one in first["data"]], first["has_more"]) == (names[:3], True)
    rest = client.get(f"{JOBS}?limit=3&after={names[2]}").json()
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == (names[3:], False)
    assert client.get(f"{JOBS}?limit=0").status_code == 400


def test_a_job_is_cancelled_and_one_that_is_over_stays_as_it_is(client: TestClient, jobs: Jobs) -> None:
    job = ordered(client, model="digits", n=1000)["id"]
    assert [one.id for one in jobs.open()] == [job]
    assert client.delete(f"{JOBS}/{job}").json()["status"] == "cancelled"
    assert client.post(f"{JOBS}/{job}/cancel").json()["status"] == "cancelled"
    assert list(jobs.open()) == []
    done = ordered(client, model="digits", n=1)["id"]
    jobs.keep(done, State(status="done", done=1, finished=1.0))
    assert client.delete(f"{JOBS}/{done}").json()["status"] == "done"
    assert not jobs.cancelled(done)


def test_what_is_long_over_is_pruned_with_its_shards_and_nothing_else(
    client: TestClient, jobs: Jobs, catalog: Catalog
) -> None:
    old, fresh, cancelled, waiting = (ordered(client, model="digits", n=2)["id"] for _ in range(4))
    rows(jobs, catalog, old)
    for name, at in ((old, 100.0), (fresh, 300.0)):
        jobs.keep(name, State(status="done", done=2, finished=at))
    jobs.cancel(cancelled)
    assert 'genloom_jobs{status="queued"} 1.0' in client.get("/metrics").text
    assert jobs.counts() == {"queued": 1, "running": 0, "done": 2, "failed": 0, "cancelled": 1}
    assert jobs.prune(200.0) == [old]
    assert jobs.ids() == sorted((fresh, cancelled, waiting), reverse=True)
    assert client.get(f"{JOBS}/{old}").status_code == 404
    assert not list(jobs.folder.glob(f"*{old}*"))
    assert set(jobs.prune(time.time() + 1)) == {fresh, cancelled}
    assert jobs.ids() == [waiting]
    assert jobs.counts()["done"] == 0


@pytest.mark.parametrize("name", ["job-0", "..", "..%2F..%2Fkeys.json", "job-000000000000-00000000", ".lock"])
def test_what_is_no_job_is_404(client: TestClient, name: str) -> None:
    for answer in (client.get(f"{JOBS}/{name}"), client.post(f"{JOBS}/{name}/cancel")):
        assert answer.status_code in (404, 405)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_key_sees_its_own_jobs_and_an_operator_all(catalog: Catalog, jobs: Jobs, tmp_path: Path) -> None:
    ring = Keyring(tmp_path / "keys.json")
    secrets = {name: ring.create(name)[1] for name in ("one", "two")}
    secrets["boss"] = ring.create("boss", ["operate"])[1]
    client = TestClient(create_app(catalog, Access(ring, True), jobs=jobs))
    head = {name: {"authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
    body = {"model": "digits", "n": 5}
    mine = client.post(JOBS, json=body, headers=head["one"]).json()["id"]
    assert client.post(JOBS, json=body, headers=head["boss"]).status_code == 403
    assert client.post(JOBS, json=body).status_code == 401
    seen = {name: client.get(JOBS, headers=own).json()["data"] for name, own in head.items()}
    assert {name: [one["id"] for one in found] for name, found in seen.items()} == {
        "one": [mine],
        "two": [],
        "boss": [mine],
    }
    for answer in (
        client.get(f"{JOBS}/{mine}", headers=head["two"]),
        client.delete(f"{JOBS}/{mine}", headers=head["two"]),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "job_not_found")
    assert not jobs.cancelled(mine)
    assert client.delete(f"{JOBS}/{mine}", headers=head["boss"]).json()["status"] == "cancelled"


def test_the_open_jobs_of_a_key_are_bounded(client: TestClient) -> None:
    names = [ordered(client, model="digits", n=1)["id"] for _ in range(OPEN)]
    answer = client.post(JOBS, json={"model": "digits", "n": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_jobs")
    assert int(answer.headers["retry-after"]) > 0
    client.delete(f"{JOBS}/{names[0]}")
    ordered(client, model="digits", n=1)


@pytest.mark.parametrize(("n", "rows"), [(1, SMALLEST), (10_000, 157), (MOST, LARGEST)])
def test_shards_are_neither_many_nor_long(n: int, rows: int) -> None:
    assert rows_of(n) == rows


def test_a_job_is_of_the_version_it_was_ordered_of(
    artifact: Callable[..., Path], client: TestClient, jobs: Jobs, tmp_path: Path
) -> None:
    from components.errors import FailedError

    job, _ = jobs.get(ordered(client, model="digits", n=5)["id"])
    loaded = open_job(job, Settings(home=tmp_path))
    assert loaded.model.digest == job.digest
    loaded.engine.close()
    other = job.model_copy(update={"artifact": artifact(tmp_path / "other", seed=9)})
    with pytest.raises(FailedError, match="is not what the job was ordered of"):
        open_job(other, Settings(home=tmp_path))


def test_a_job_that_failed_while_others_of_its_processes_went_on_is_told_as_failed(
    client: TestClient, jobs: Jobs
) -> None:
    name = ordered(client, model="digits", n=1000)["id"]
    jobs.keep(name, State(status="running", error="The model broke."))
    jobs.cancel(name)
    answer = client.get(f"{JOBS}/{name}").json()
    assert (answer["status"], answer["error"]) == ("failed", "The model broke.")


def test_a_job_whose_files_are_damaged_takes_no_other_with_it(client: TestClient, jobs: Jobs) -> None:
    broken, lost, whole = (ordered(client, model="digits", n=5)["id"] for _ in range(3))
    (jobs.folder / broken / "job.json").write_text("")
    (jobs.folder / lost / "state.json").write_text("")
    assert client.get(f"{JOBS}/{broken}").status_code == 404
    assert client.get(f"{JOBS}/{lost}").json()["status"] == "queued"
    assert [job.id for job in jobs.open()] == [lost, whole]
    assert {one["id"] for one in client.get(JOBS).json()["data"]} == {lost, whole}
    assert jobs.counts()["queued"] == 2
    assert jobs.prune(time.time() + 1) == [broken]


def test_a_job_has_room_for_all_of_its_rows(client: TestClient, jobs: Jobs, tmp_path: Path) -> None:
    """A picture in tiles may have as many rows as the queue of a serving engine holds, and two are asked at a time."""
    job, _ = jobs.get(ordered(client, model="digits", n=5)["id"])
    loaded = open_job(job, Settings(home=tmp_path))
    work = [loaded.engine.submit(Requests(seed=torch.arange(1024))) for _ in range(2)]
    assert [len(one.result()) for one in work] == [1024, 1024]
    loaded.engine.close()


def test_a_job_with_half_a_character_is_refused(client: TestClient, jobs: Jobs) -> None:
    answer = client.post(
        JOBS,
        content=b'{"model":"digits","n":1,"request":{"user":"\\ud800"}}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400, answer.text
    assert "half a character" in answer.json()["error"]["message"]
    assert jobs.ids() == []


def test_the_clerk_outlives_a_folder_that_is_away(
    client: TestClient, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is away when the clerk, which has nothing to do, wants to leave."""
    clerk, left = bulk.Clerk.__new__(bulk.Clerk), threading.Event()
    clerk.jobs, clerk._look, clerk._running, clerk._self = jobs, threading.Event(), {}, None
    locks = iter([OSError("stale file handle")])

    def lock() -> FileLock:
        if (error := next(locks, None)) is not None:
            raise error
        return FileLock(jobs.folder / ".lock")

    def kill(_: object) -> None:
        left.set()
        raise SystemExit

    jobs.folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(jobs, "lock", lock)
    monkeypatch.setattr(bulk.ray, "kill", kill)
    monkeypatch.setattr(bulk, "IDLE", 0.0)
    monkeypatch.setattr(bulk, "EVERY", 0.01)
    with pytest.raises(SystemExit):
        clerk._run()
    assert left.is_set()


def test_a_job_waits_for_its_engine_however_slow_it_is(
    client: TestClient, jobs: Jobs, tmp_path: Path
) -> None:
    job, _ = jobs.get(ordered(client, model="digits", n=5)["id"])
    loaded = open_job(job, Settings(home=tmp_path))
    loaded.engine._pace.add(10_000.0, 16, 16)
    write_shard(loaded, job, 0, jobs.data(job), lambda: False)
    assert jobs.missing(job) == []
    loaded.engine.close()


def test_a_body_is_read_before_the_engine_has_anything_of_it(catalog: Catalog) -> None:
    loaded = catalog.loaded["digits"]
    before = loaded.engine.tally.steps
    start = ready(loaded, loaded.model.modality.warm(loaded.model.shape))
    time.sleep(0.05)
    assert (loaded.engine.tally.steps, loaded.engine.busy) == (before, False)
    making = start()
    assert making.take(0, making.work.result(30)).content
