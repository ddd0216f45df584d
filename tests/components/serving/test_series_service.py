"""Series over HTTP: futures of a context with their quantiles, windows, CSV, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from components.modalities.series import Series
from components.serving.catalog import Catalog, Loaded
from components.serving.jobs import Jobs
from components.serving.routes.application import create_app
from components.serving.shards import write_shard
from tests.components.serving.hum import hum
from tests.components.waves import PERIOD, learned, prepared, served, waves, written

GENERATE = "/v1/generations"
CONTEXT = waves()[-24:]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return served(learned(prepared(tmp_path_factory.mktemp("served") / "project"), 250))


@pytest.fixture(scope="module")
def client(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    catalog = Catalog({"waves": loaded, "hum": hum(tmp_path_factory.mktemp("sound"))})
    jobs = Jobs(tmp_path_factory.mktemp("jobs"))
    with TestClient(create_app(catalog, jobs=jobs), raise_server_exceptions=False) as client:
        client.jobs = jobs  # type: ignore[attr-defined]
        yield client


def ask(client: TestClient, **body: Any) -> Any:
    return client.post(GENERATE, json={"model": "waves", "seed": 5, **body})


def test_futures_go_on_as_the_context_did(client: TestClient) -> None:
    context = {"low": CONTEXT[:, 0].tolist(), "high": CONTEXT[:, 1].tolist()}
    answer = ask(client, context=context, n=20)
    assert answer.status_code == 200, answer.text
    content = answer.json()
    assert (content["model"], content["horizon"], content["filled"]) == ("waves", 8, 0)
    assert content["seeds"] == list(range(5, 25))
    for one, size, middle in zip(content["data"], (1, 100), (5, 0), strict=True):
        assert list(one["quantiles"]) == ["0.1", "0.5", "0.9"]
        samples = np.array(one["samples"])
        assert samples.shape == (20, 8)
        assert np.allclose(one["quantiles"]["0.5"], np.quantile(samples, 0.5, axis=0))
        truth = np.array(context[one["channel"]])[-PERIOD:]
        error = np.abs(np.array(one["quantiles"]["0.5"]) - truth).mean() / size
        assert error < 0.5, "less than a wave is high"
        assert np.abs(samples.mean() - middle) < size
    assert answer.headers["x-genloom-version"] == "2"


def test_the_same_seed_gives_the_same_and_one_future_can_be_asked_alone(client: TestClient) -> None:
    context = CONTEXT[:, 0].tolist()
    first, again = (ask(client, context=context, n=3).json()["data"] for _ in range(2))
    assert first == again
    alone = ask(client, context=context, n=1, seed=7).json()["data"]
    assert alone[0]["samples"][0] == first[0]["samples"][2]
    other = ask(client, context=context, n=3, seed=99).json()["data"]
    assert other != first


def test_units_do_not_matter_to_a_series_without_a_name(client: TestClient) -> None:
    context = CONTEXT[:, 0]
    one, other = (ask(client, context=(context * by).tolist(), n=4).json()["data"][0] for by in (1.0, 1024.0))
    assert np.allclose(np.array(one["samples"]) * 1024, other["samples"], rtol=1e-6)


def test_temperature_nought_is_one_future(client: TestClient) -> None:
    samples = ask(client, context=CONTEXT[:, 0].tolist(), n=3, temperature=0).json()["data"][0]["samples"]
    assert samples[0] == samples[1] == samples[2]


def test_gaps_of_a_context_are_filled_and_told(client: TestClient) -> None:
    context: list[float | None] = [*CONTEXT[:, 0]]
    context[10] = context[11] = None
    content = ask(client, context=context).json()
    assert content["filled"] == 2
    assert len(content["data"][0]["samples"][0]) == 8


def test_csv_comes_and_goes_with_its_times(client: TestClient, tmp_path: Path) -> None:
    text = written(tmp_path / "waves.csv").read_text()
    answer = ask(client, context=text, n=2, quantiles=[0.9, 0.1], horizon=3, format="csv")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == ["channel", "step", "time", "q0.1", "q0.9", "sample1", "sample2"]
    assert [row[:3] for row in rows[:3]] == [
        ["low", "1", "2024-01-17T16:00:00"],
        ["low", "2", "2024-01-17T17:00:00"],
        ["low", "3", "2024-01-17T18:00:00"],
    ]
    assert [row[0] for row in rows] == ["low"] * 3 + ["high"] * 3
    assert all(float(row[3]) <= float(row[4]) for row in rows)


def test_windows_are_drawn_of_every_channel_or_of_one(client: TestClient) -> None:
    content = ask(client, n=12).json()
    assert content["horizon"] == 32
    assert {one["channel"] for one in content["data"]} == {"low", "high"}
    assert [one["seed"] for one in content["data"]] == list(range(5, 17))
    of_high = ask(client, n=4, channel="high", horizon=10).json()["data"]
    assert {one["channel"] for one in of_high} == {"high"}
    assert {len(one["values"]) for one in of_high} == {10}
    assert np.std([one["values"] for one in of_high]) > 20
    table = ask(client, n=2, channel="low", horizon=4, format="csv").text.splitlines()
    assert table[0] == "low#5,low#6"
    assert len(table) == 5


def test_a_job_writes_a_table_a_row(client: TestClient, loaded: Loaded, tmp_path: Path) -> None:
    request = {"context": CONTEXT[:, 0].tolist(), "horizon": 3}
    body = {"model": "waves", "n": 2, "seed": 5, "request": request}
    job, _ = client.jobs.get(client.post("/v1/jobs", json=body).json()["id"])  # type: ignore[attr-defined]
    write_shard(loaded, job, 0, tmp_path, lambda: False)
    (path,) = tmp_path.iterdir()
    rows = pq.read_table(path).to_pydict()
    assert (list(rows), rows["seed"]) == (["seed", "text"], [5, 6])
    assert [len(text.splitlines()) for text in rows["text"]] == [4, 4]


def test_a_long_horizon_looks_at_less(client: TestClient) -> None:
    answer = ask(client, context=CONTEXT[:, 0].tolist(), horizon=24)
    assert len(answer.json()["data"][0]["samples"][0]) == 24


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            {"context": [1, 2, 3]},
            "The context of “value” has 3 values and a forecast needs 8; send more, best 24.",
        ),
        ({"context": []}, "“context” is no list of numbers, object of such by channel or text of CSV"),
        ({"context": {}}, "“context” names no channel"),
        ({"context": [1.0] * 9 + [None]}, "ends with a missing value"),
        ({"context": [1, 2, "x"] * 9}, "“context” has no number of at most 1e+100 at place 2"),
        ({"context": {"low": "x"}}, "“context.low” is no list of numbers"),
        ({"context": "a,b\n1,2\n3\n"}, "The context, line 3 has 1 cells and the first line has 2"),
        ({"context": "words"}, "The context"),
        (
            {"context": [1.0] * 24, "horizon": 25},
            "“horizon” is 25 and this model looks at most 24 steps ahead",
        ),
        ({"horizon": 33}, "“horizon” is 33 and a window of this model has 32 steps"),
        ({"channel": "middle"}, "There is no channel “middle”"),
        ({"context": {"low": [1.0] * 24}, "channel": "low"}, "“channel” is for a list of numbers"),
        ({"context": [1.0] * 24, "quantiles": [1.5]}, "quantiles"),
        ({"context": [1.0] * 24, "n": 0}, "n"),
        ({"prompt": "Once"}, "prompt"),
        ({"context": {str(one): [1.0] * 24 for one in range(9)}, "n": 999}, "may ask for 1024"),
        ({"context": [1, 2, 10**400] * 9}, "“context” has no number of at most 1e+100 at place 2"),
        ({"context": "a\n" + "1\n1e200\n" * 9}, "has values beyond 1e+100; send them in a larger unit"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_sentence(
    client: TestClient, body: dict[str, Any], sentence: str
) -> None:
    answer = ask(client, **body)
    assert answer.status_code == 400, answer.text
    assert sentence in answer.json()["error"]["message"]


def test_a_constant_context_stays_finite(client: TestClient) -> None:
    samples = ask(client, context=[7.0] * 24, n=4).json()["data"][0]["samples"]
    assert np.isfinite(samples).all()
    assert np.abs(np.array(samples) - 7).max() < 1


def test_models_tell_what_can_be_asked(client: TestClient, loaded: Loaded) -> None:
    about = client.get("/v1/models/waves").json()
    assert about["routes"] == [GENERATE]
    assert about["channels"] == ["low", "high"]
    assert (about["context"], about["horizon"], about["longest_horizon"], about["season"]) == (24, 8, 24, 8)
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert "SeriesRequest" in schemas
    probe = loaded.model.modality.probe(loaded.model.shape, 3)
    files, order = loaded.generate(probe)
    assert len(files) == len(order) == 8
    assert json.dumps([file.decode() for file in files]).count("\\n") == 8 * 33
    assert isinstance(loaded.model.modality, Series)
