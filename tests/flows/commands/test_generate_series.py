"""`genloom data add` and `genloom generate` with series: a person's CSV, a server, a model loaded here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.labels.formats import text_content
from components.labels.statement import FIELD
from components.modalities.forecast import SeriesRequest, as_csv
from components.modalities.tables import read_csv
from components.project import open_project
from components.series_rows import SeriesFilesRow
from components.serving import client, forecast
from components.serving.catalog import Loaded
from components.serving.place import Place
from components.serving.routes.models import describe
from components.train.plan import check_product, check_run
from tests.components.serving.asking import a_server
from tests.components.waves import learned, prepared, served, waves, written

Genloom = Callable[..., Any]
ASK = ("generate", "digits", "--seed", 3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Series, under the name of a product that the project has."""
    return served(learned(prepared(tmp_path_factory.mktemp("series") / "project"), 40), "digits")


@pytest.fixture
def url(project: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(loaded.engine, "close", lambda: None)  # the next test asks it again
    with a_server(project, {"digits": loaded}) as url:
        yield url


def test_own_series_from_file_to_report(project: Path, genloom: Genloom) -> None:
    written(project / "waves.csv")
    said = genloom("data", "add", "waves", "waves.csv", "--context", 24, "--horizon", 8, "--season", 8)
    assert said.code == 0, said.err
    assert said.out.startswith("2 series\n")
    assert "(task prompt) with the runs waves-gpt and waves-lstm" in said.out
    where = open_project(project)
    row = where.dataset("waves")
    assert isinstance(row, SeriesFilesRow)
    assert (row.path, row.context, row.horizon, row.season) == ("waves.csv", 24, 8, 8)
    check_product(where, "waves")
    for run in ("waves-gpt", "waves-lstm"):
        check_run(where, run, where.run(run))
    said = genloom("data", "prepare", "waves")
    assert said.code == 0, said.err
    shown = json.loads(genloom("data", "show", "waves", "--json").out)
    assert (shown["read"], shown["kept"], shown["gaps"]["missing"]) == (2, 2, 0)
    assert Image.open(shown["preview"]).size[0] > 300
    assert "modality" in genloom("data", "list", "--json").out


def test_futures_are_a_table_with_a_picture(
    project: Path, genloom: Genloom, url: str, loaded: Loaded
) -> None:
    context, out = written(project / "waves.csv"), project / "out.csv"
    said = genloom(*ASK, "--context", context, "--horizon", 6, "-n", 5, "-o", out, "--quantiles", "0.25,0.75")
    assert said.code == 0, said.err
    assert said.out.startswith(
        f"digits/2 drew 5 futures into {out} and {out.with_suffix('.png')} with seed 3"
    )
    assert np.asarray(Image.open(out.with_suffix(".png"))).std() > 5
    head, *rows = out.read_text().splitlines()
    assert head == "channel,step,time,q0.25,q0.75," + ",".join(f"sample{place}" for place in range(1, 6))
    assert len(rows) == 12
    here = Place("digits", 2, "series", describe(loaded), loaded=loaded)
    again = forecast.forecast(here, context, {"n": 5, "seed": 3, "horizon": 6, "quantiles": [0.25, 0.75]})
    forecast.written(here, again, project / "here.csv")
    assert (project / "here.csv").read_bytes() == out.read_bytes(), "by the server and here: the same bits"
    for file in (out, out.with_suffix(".png")):
        said = genloom("labels", "read", file, "--json")
        assert json.loads(said.out)["statement"]["product"] == "digits", said


def test_a_context_may_be_json_or_parquet(project: Path, genloom: Genloom, url: str) -> None:
    values = waves()[-24:, 0]
    (project / "it.json").write_text(json.dumps({"low": values.tolist()}))
    pq.write_table(pa.table({"low": values}), project / "it.parquet")
    (project / "text.json").write_text(json.dumps("low\n" + "\n".join(map(repr, values.tolist()))))
    answers = []
    for name in ("it.json", "it.parquet", "text.json"):
        out = project / f"{name}.out.json"
        said = genloom(*ASK, "--context", project / name, "-n", 2, "-o", out, "--json")
        assert said.code == 0, said.err
        assert json.loads(said.out)["files"][0] == str(out)
        answers.append(json.loads(out.read_text())["data"])
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0][0]["samples"]) == 2


def test_windows_are_drawn_without_a_context(project: Path, genloom: Genloom, url: str) -> None:
    out = project / "windows.csv"
    said = genloom(*ASK, "-n", 3, "--channel", "low", "-o", out)
    assert said.code == 0, said.err
    assert "drew 3 windows" in said.out
    table = read_csv(out.read_text(), "windows.csv")
    assert table.names == ("low#3", "low#4", "low#5")
    assert table.values.shape == (32, 3)


def test_more_than_a_request_may_have_is_asked_for_in_parts(
    project: Path, genloom: Genloom, url: str, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = genloom(*ASK, "-n", 1100, "--horizon", 2, "-o", project / "many.csv")
    assert said.code == 0, said.err
    assert len(read_csv((project / "many.csv").read_text(), "many.csv").names) == 1100
    context = written(project / "waves.csv")
    places = [
        Place("digits", 2, "series", describe(loaded), **who) for who in ({"url": url}, {"loaded": loaded})
    ]
    asked = {"n": 11, "seed": 2**63 - 3, "horizon": 4, "quantiles": [0.25, 0.75]}
    for path in (context, None):
        whole = [forecast.forecast(place, path, asked).content for place in places]
        with monkeypatch.context() as patch:
            patch.setattr(forecast, "ROWS", 8)
            apart = [forecast.forecast(place, path, asked) for place in places]
        assert [one.content["data"] for one in apart] == [one["data"] for one in whole]
        assert [one.withheld for one in apart] == [0, 0]
        assert as_csv(apart[0].content) == as_csv(whole[0])


def test_parts_have_one_mark_and_a_filter_may_hold_one_back(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(_: Place, body: SeriesRequest) -> dict[str, Any]:
        if body.seed == 1:
            raise client.WithheldError("it is bad")
        data = [{"channel": "low", "seed": body.seed, "values": [0.5, 1.0]} for _ in range(body.n)]
        return {"horizon": 2, "data": data, FIELD: {"product": "digits", "contents": ["of the part"]}}

    monkeypatch.setattr(forecast, "_asked", asked)
    monkeypatch.setattr(forecast, "ROWS", 2)
    place = Place("digits", 2, "series", describe(loaded), loaded=loaded)
    found = forecast.forecast(place, None, {"n": 6, "seed": 1})
    assert (len(found.content["data"]), found.withheld) == (4, 2)
    contents = [text_content(as_csv(found.content))]
    assert found.content[FIELD] == {"product": "digits", "contents": contents}
    with pytest.raises(client.WithheldError, match="it is bad"):
        forecast.forecast(place, None, {"n": 2, "seed": 1})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("-o", "out.png"), "The series are CSV or JSON; name the file out.csv"),
        (("--context", "none.csv"), "none.csv cannot be read (No such file or directory)"),
        (("--context", "bad.json"), "bad.json is not valid JSON"),
        (("--context", "bad.csv"), "bad.csv, line 3 has 1 cells and the first line has 2"),
        (("--quantiles", "a"), "--quantiles is “a”; write numbers between 0 and 1"),
        (("--size", "8x8"), "digits makes series, without --size; leave it out."),
        (("--prompt", "x"), "digits makes series, without --prompt; leave it out."),
        (("--channel", "middle"), "There is no channel “middle”"),
        (("--context", "waves.csv", "-o", "waves.csv"), "would take the place of waves.csv"),
        (("--context", "waves.csv", "--horizon", 99), "looks at most 24 steps ahead"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    project: Path,
    genloom: Genloom,
    url: str,
    options: tuple[object, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project)
    before = written(project / "waves.csv").read_bytes()
    (project / "bad.json").write_text("[1,")
    (project / "bad.csv").write_text("a,b\n1,2\n3\n")
    said = genloom(*ASK, *options)
    assert said.code == 2, said.out
    assert sentence in said.err
    assert not (project / "out.csv").exists()
    assert (project / "waves.csv").read_bytes() == before
