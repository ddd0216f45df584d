"""Marks of series, molecules, music and texts: in the file, in the field of an answer, or beside what has no place."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from components.labels import credentials, journal
from components.labels.marker import BESIDE
from components.labels.reading import Reading, read, read_path
from components.serving import compose, draw, forecast, molecules
from components.serving.catalog import Catalog, Loaded
from components.serving.place import Place
from components.serving.records import Recorder, folder_of
from components.serving.routes.application import create_app
from components.serving.routes.models import describe
from components.settings import Settings
from tests.components.serving.chemist import chemist
from tests.components.serving.parrot import parrot
from tests.components.serving.songs import songs
from tests.components.serving.test_marking import with_marks
from tests.components.waves import learned, prepared, served, waves

GENERATE = "/v1/generations"
CONTEXT = waves()[-24:, 0].tolist()
ASKED: dict[str, dict[str, Any]] = {
    "waves": {"context": CONTEXT, "n": 3},
    "drugs": {"n": 5},
    "songs": {"n": 2, "bars": 2},
    "tales": {"prompt": "Once upon a time", "n": 2, "max_tokens": 8},
}
FILES = {
    "series": ("waves", {"context": CONTEXT, "n": 3, "format": "csv"}),
    "windows": ("waves", {"n": 2, "format": "csv"}),
    "csv": ("drugs", {"n": 5, "response_format": "csv"}),
    "smi": ("drugs", {"n": 5, "response_format": "smi"}),
    "sdf": ("drugs", {"n": 5, "response_format": "sdf"}),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    found = Settings(home=tmp_path_factory.mktemp("home"))
    credentials.make(found)
    return found


@pytest.fixture(scope="module")
def models(settings: Settings) -> dict[str, Loaded]:
    bare = {
        "waves": served(learned(prepared(settings.home / "project"), 5)),
        "drugs": chemist(settings.home),
        "songs": songs(settings.home),
        "tales": parrot(settings.home),
    }
    return {name: with_marks(loaded, settings, visible=True) for name, loaded in bare.items()}


@pytest.fixture(scope="module")
def client(models: dict[str, Loaded], settings: Settings) -> Iterator[TestClient]:
    recorder = Recorder(folder_of(settings), days=30)
    with TestClient(create_app(Catalog(models), recorder=recorder), raise_server_exceptions=False) as found:
        yield found


def place(loaded: Loaded) -> Place:
    about = describe(loaded)
    name = loaded.served.product
    return Place(name, 2, str(about["modality"]), about, loaded=loaded, marker=loaded.marker)


def ask(client: TestClient, model: str, body: dict[str, Any], seed: int = 5) -> Any:
    answer = client.post(GENERATE, json={"model": model, "seed": seed, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-genloom-source-type"] == "trainedAlgorithmicMedia"
    assert answer.headers["x-genloom-digest"]
    return answer


def said_of(found: Reading) -> tuple[str, str]:
    assert found.statement is not None
    return found.verdict, found.statement.name


@pytest.mark.parametrize("model", ASKED)
def test_a_json_answer_is_known_by_its_field(client: TestClient, settings: Settings, model: str) -> None:
    answer = ask(client, model, ASKED[model])
    name = f"{model}/{answer.headers['x-genloom-version']}"
    assert said_of(read(answer.content, settings)) == ("marked", name)


@pytest.mark.parametrize("model", ["waves", "drugs", "tales"])
def test_an_answer_whose_content_was_changed_is_altered(
    client: TestClient, settings: Settings, model: str
) -> None:
    content = ask(client, model, ASKED[model]).json()
    first = content["data"][0]
    if model == "waves":
        first["samples"][0][0] += 1.0
    else:
        first["b64"] = base64.b64encode(b"CCBr").decode()
    assert read(json.dumps(content).encode(), settings).verdict == "altered"
    content["data"] = "nothing of it"
    assert read(json.dumps(content).encode(), settings).verdict == "altered"


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_a_place_is_known_by_its_hash(
    client: TestClient, models: dict[str, Loaded], settings: Settings, kind: str
) -> None:
    model, body = FILES[kind]
    answer = ask(client, model, body, seed=40)
    loaded = models[model]
    assert loaded.journal is not None
    loaded.journal.flush()
    found = read(answer.content, settings)
    assert said_of(found) == ("stripped", f"{model}/2")
    assert found.issued is not None
    assert found.issued.seed == 40
    assert read(answer.content + b"1", settings).verdict == "unmarked"


@pytest.mark.parametrize("kind", FILES)
def test_of_a_whole_file_one_hash_is_kept(
    client: TestClient, models: dict[str, Loaded], settings: Settings, kind: str
) -> None:
    model, body = FILES[kind]
    before = hashes(models[model], settings)
    ask(client, model, body, seed=400 + list(FILES).index(kind))
    assert hashes(models[model], settings) == before + 1


def test_of_molecules_those_that_are_given_out_are_kept(
    client: TestClient, models: dict[str, Loaded], settings: Settings
) -> None:
    before = hashes(models["drugs"], settings)
    content = ask(client, "drugs", {"n": 5, "valid_only": True, "temperature": 2.0}, seed=77).json()
    assert content["dropped"], "some were drawn in vain"
    assert hashes(models["drugs"], settings) == before + len(content["data"])
    last = content["data"][-1]
    found = read(last["smiles"].encode(), settings)
    assert found.issued is not None
    assert found.issued.seed == last["seed"]


def hashes(loaded: Loaded, settings: Settings) -> int:
    """How many the server keeps of what the model made."""
    assert loaded.journal is not None
    loaded.journal.flush()
    folder = journal.folder_of(settings, loaded.served.product)
    return sum(len(path.read_text().splitlines()) for path in folder.glob("*.jsonl"))


@pytest.mark.parametrize("kind", [".csv", ".json"])
@pytest.mark.parametrize("context", [True, False])
def test_series_of_the_command_line_say_who_made_them(
    models: dict[str, Loaded], settings: Settings, tmp_path: Path, kind: str, context: bool
) -> None:
    given = tmp_path / "given.json"
    given.write_text(json.dumps(CONTEXT))
    here = place(models["waves"])
    answer = forecast.forecast(here, given if context else None, {"n": 2, "seed": 3})
    for path in forecast.written(here, answer, tmp_path / f"out{kind}"):
        assert said_of(read_path(path, settings)) == ("marked", "waves/2"), path
    assert (tmp_path / f"out.csv{BESIDE}").is_file() == (kind == ".csv")
    out = tmp_path / f"out{kind}"
    out.write_bytes(out.read_bytes().replace(b"0.", b"1."))
    assert read_path(out, settings).verdict == "altered"


@pytest.mark.parametrize("kind", molecules.KINDS)
def test_molecules_of_the_command_line_say_who_made_them(
    models: dict[str, Loaded], settings: Settings, tmp_path: Path, kind: str
) -> None:
    made = molecules.design(place(models["drugs"]), 5, 0, {})
    for path in molecules.write(tmp_path / f"out{kind}", made):
        assert said_of(read_path(path, settings)) == ("marked", "drugs/2"), path
    assert (tmp_path / f"out{kind}{BESIDE}").is_file() == (kind != ".png")


def test_without_marks_an_older_statement_goes(models: dict[str, Loaded], tmp_path: Path) -> None:
    marked = place(models["drugs"])
    out = tmp_path / "out.smi"
    molecules.write(out, molecules.design(marked, 5, 0, {}))
    bare = Place("drugs", 2, "molecule", marked.about, loaded=models["drugs"])
    molecules.write(out, molecules.design(bare, 5, 1, {}))
    assert not out.with_name(f"out.smi{BESIDE}").exists()
    assert b"Genloom" not in out.with_suffix(".png").read_bytes()


@pytest.mark.parametrize("labels", ["metadata", "signed"])
def test_music_and_what_lies_beside_it_carry_marks(
    models: dict[str, Loaded], settings: Settings, tmp_path: Path, labels: Any
) -> None:
    loaded = with_marks(models["songs"], settings, labels=labels)
    here = place(loaded)
    drawn = compose.compose(here, 1, 3, {"bars": 2, "temperature": 1.0, "top_p": 1.0}, None)
    (midi,) = compose.write(here, draw.Target(tmp_path / "out.mid", False), drawn, None)
    found = {path.suffix: read_path(path, settings) for path in tmp_path.iterdir()}
    assert said_of(found[midi.suffix]) == ("marked", "songs/2"), "C2PA has no place in MIDI"
    for suffix in set(found) - {".mid"}:
        assert said_of(found[suffix]) == ("signed" if labels == "signed" else "marked", "songs/2")


def test_a_table_of_series_is_the_same_whether_marked_or_not(client: TestClient) -> None:
    answer = ask(client, "waves", ASKED["waves"]).json()
    table = ask(client, "waves", {**ASKED["waves"], "format": "csv"}).text
    first = table.splitlines()[1].split(",")
    one = answer["data"][0]
    assert np.allclose([float(cell) for cell in first[-3:]], [row[0] for row in one["samples"]])
