"""Molecules over HTTP: what is said of each, what is drawn on for, files, and what is refused."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from rdkit import Chem

from components.filtering import open_filter
from components.modalities.designing import MoleculeRequest
from components.serving import molecules
from components.serving.catalog import Catalog
from components.serving.jobs import Jobs
from components.serving.making import Made
from components.serving.molecules import Search
from components.serving.routes.application import create_app
from components.serving.shards import write_shard
from components.terms import Terms
from tests.components.serving.chemist import OF_BANDS, WRITTEN, chemist

GENERATE = "/v1/generations"
FILTER = "def refuse(content, media_type):\n    return 'it is benzene' if content == b'c1ccccc1' else None\n"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    root = tmp_path_factory.mktemp("molecules")
    (root / "filter.py").write_text(FILTER)
    filtered = chemist(root, "filtered")
    held_back = open_filter(Terms(code=root / "filter.py", code_hash="x"))
    return Catalog(
        {
            "drugs": chemist(root),
            "plain": chemist(root, "plain", bands=False),
            "filtered": dataclasses.replace(filtered, filter=held_back),
        }
    )


@pytest.fixture(scope="module")
def client(catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    jobs = Jobs(tmp_path_factory.mktemp("jobs"))
    with TestClient(create_app(catalog, jobs=jobs), raise_server_exceptions=False) as client:
        client.jobs = jobs  # type: ignore[attr-defined]
        yield client


def asked(client: TestClient, **body: Any) -> Any:
    return client.post(GENERATE, json={"model": "drugs", "seed": 0, **body})


def smiles(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["smiles"] for one in answer.json()["data"]]


def refusal(answer: Any) -> str:
    assert answer.status_code == 400, answer.text
    return str(answer.json()["error"]["message"])


def test_each_molecule_is_told_with_its_seed_and_properties(client: TestClient) -> None:
    answer = asked(client, n=9, seed=0)
    content = answer.json()
    assert smiles(answer) == [*WRITTEN, *WRITTEN[:2]]
    assert (content["drawn"], content["dropped"]) == (9, 0)
    ethanol, broken = content["data"][0], content["data"][2]
    assert base64.b64decode(ethanol["b64"]) == b"CCO"
    assert (ethanol["valid"], ethanol["canonical"], ethanol["seed"]) == (True, "CCO", 0)
    assert ethanol["weight"] == pytest.approx(46.069, abs=1e-3)
    assert ethanol["logp"] == pytest.approx(-0.0014, abs=1e-3)
    assert 0 < ethanol["qed"] < 1
    assert (broken["valid"], broken["canonical"]) == (False, None)
    assert "qed" not in broken
    assert answer.headers["x-genloom-drawn"] == "9"


def test_valid_ones_are_drawn_on_for_and_are_those_of_plain_requests(client: TestClient) -> None:
    answer = asked(client, n=9, valid_only=True)
    content = answer.json()
    plain = asked(client, n=13).json()["data"]
    assert content["data"] == [one for one in plain if one["valid"]][:9]
    assert (content["drawn"], content["dropped"]) == (13, 4)
    assert asked(client, n=1, seed=content["data"][5]["seed"]).json()["data"] == [content["data"][5]]


def test_a_fragment_is_found_as_smiles_and_as_smarts(client: TestClient) -> None:
    assert smiles(asked(client, n=2, contains="c1ccncc1")) == ["Oc1ccncc1"] * 2
    assert smiles(asked(client, n=2, contains="C1=CN=CC=C1")) == ["Oc1ccncc1"] * 2
    assert smiles(asked(client, n=3, contains="[#8]")) == ["CCO", "Oc1ccncc1", "CCO"]


def test_a_search_ends(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecules, "DRAWS", 2)
    monkeypatch.setattr(molecules, "LEAST_DRAWN", 10)
    answer = asked(client, n=5, contains="c1ccncc1").json()
    assert ([one["seed"] for one in answer["data"]], answer["drawn"]) == ([5], 10)
    assert "None of the 10 molecules that were drawn is valid and holds “S”" in refusal(
        asked(client, contains="S")
    )


def test_what_is_found_does_not_depend_on_the_rounds() -> None:
    def found(most: int) -> tuple[list[int], int]:
        search = Search(MoleculeRequest(n=10, valid_only=True), 5)
        while (more := search.next()) is not None:
            assert more.seed is not None
            seeds = range(more.seed, more.seed + min(most, more.n))
            search.take([Made(WRITTEN[seed % 7].encode(), seed) for seed in seeds])
        return [one["seed"] for one in search.found], search.drawn

    assert found(1000) == found(3) == found(1)
    assert found(3)[1] == 13


def test_a_prefix_begins_each_and_a_band_is_asked_for(client: TestClient) -> None:
    assert smiles(asked(client, n=2, prefix="c1ccccc1")) == ["c1ccccc1CC"] * 2
    for label, expected in zip(("low", "medium", "high"), OF_BANDS, strict=True):
        answer = asked(client, label=label)
        assert smiles(answer) == [expected]
        assert answer.json()["data"][0]["label"] == label
    told = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert (told["drugs"]["classes"], told["drugs"]["bands"]) == (["low", "medium", "high"], "weight")
    assert (told["plain"]["classes"], told["plain"]["routes"]) == ([], [GENERATE])


def test_files_hold_what_other_programs_read(client: TestClient) -> None:
    table = asked(client, n=7, response_format="csv")
    assert table.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["smiles"] for row in rows] == list(WRITTEN)
    assert [row["valid"] for row in rows].count("false") == 2
    lines = asked(client, n=7, response_format="smi").text.splitlines()
    assert lines == [f"{one} {seed}" for seed, one in enumerate(WRITTEN) if seed not in (2, 4)]
    records = asked(client, n=7, response_format="sdf")
    found = list(Chem.ForwardSDMolSupplier(io.BytesIO(records.content)))
    assert [Chem.MolToSmiles(one) for one in found] == ["CCO", "c1ccccc1", "CCN", "Oc1ccncc1", "CCCC"]
    assert [one.GetProp("_Name") for one in found] == ["0", "1", "3", "5", "6"]
    assert float(found[0].GetProp("weight")) == pytest.approx(46.069, abs=1e-3)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prefix": "C[C@"}, "no token begins at “[C@”"),
        ({"prefix": "CBr"}, "“prefix” has the token “Br”, which no molecule of training had"),
        ({"prefix": "C" * 40}, "“prefix” has 40 tokens and the model's molecules have at most 30"),
        ({"contains": "C(("}, "neither SMILES nor SMARTS"),
        ({"contains": "C C"}, "neither SMILES nor SMARTS"),
        ({"label": "huge"}, "no label “huge”"),
        ({"model": "plain", "label": "low"}, "trained without bands of a property"),
        ({"n": 5000}, "“n” is 5000"),
        ({"temperature": -1}, "temperature"),
        ({"response_format": "png"}, "response_format"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_wrong_requests_are_refused_in_one_sentence(
    client: TestClient, body: dict[str, Any], sentence: str
) -> None:
    said = refusal(asked(client, **body))
    assert sentence in said
    assert "\n" not in said


def test_other_routes_say_where_to_ask(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "drugs", "prompt": "C"})
    assert refusal(answer) == "The model “drugs” makes molecules; ask it at /v1/generations."


def test_what_the_filter_withholds_has_no_content(client: TestClient) -> None:
    data = asked(client, model="filtered", n=3, valid_only=True).json()["data"]
    assert data[1] == {
        "b64": None,
        "media_type": "chemical/x-daylight-smiles",
        "smiles": None,
        "seed": 1,
        "withheld": "it is benzene",
    }
    assert [one["smiles"] for one in data] == ["CCO", None, "CCN"]
    assert asked(client, model="filtered", n=2, response_format="smi").text == "CCO 0\n"
    answer = asked(client, model="filtered", seed=1)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_policy_violation"


def test_jobs_keep_every_row(client: TestClient, catalog: Catalog, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    body = {"model": "drugs", "n": 8, "seed": 0}
    answer = client.post("/v1/jobs", json={**body, "request": {"valid_only": True}})
    assert "leave “valid_only” and “contains” out" in refusal(answer)
    answer = client.post("/v1/jobs", json={**body, "request": {"temperature": 0.5}})
    assert answer.status_code == 202, answer.text
    job, _ = client.jobs.get(answer.json()["id"])  # type: ignore[attr-defined]
    write_shard(catalog.loaded["drugs"], job, 0, tmp_path, lambda: False)
    (path,) = tmp_path.iterdir()
    assert pq.read_table(path).to_pydict() == {"seed": [*range(8)], "text": [*WRITTEN, WRITTEN[0]]}


def test_a_jobs_row_that_is_held_back_says_why(client: TestClient, catalog: Catalog, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    answer = client.post("/v1/jobs", json={"model": "filtered", "n": 2, "seed": 0})
    job, _ = client.jobs.get(answer.json()["id"])  # type: ignore[attr-defined]
    terms = Terms(code=Path("filter.py"), code_hash="x")
    write_shard(
        catalog.loaded["filtered"], job.model_copy(update={"terms": terms}), 0, tmp_path, lambda: False
    )
    (path,) = tmp_path.iterdir()
    found = pq.read_table(path).to_pydict()
    assert found["text"] == [WRITTEN[0], None]
    assert (found["withheld"][0], "it is benzene" in found["withheld"][1]) == (None, True)
