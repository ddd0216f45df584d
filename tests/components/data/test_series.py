"""Series from files to Parquet: cut in order of time, gaps, what is too short."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.add import add, describe
from components.data.dataset import Batches, Dataset, Position
from components.data.prepare import prepare
from components.data.survey import survey
from components.errors import UserError
from components.families.family import END
from components.modalities.binning import ANY, HEAD
from components.modalities.series import Series
from components.series_rows import SeriesFilesRow
from tests.components.waves import STEPS, prepared, project_of, waves, written


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return prepared(tmp_path_factory.mktemp("waves") / "project")


def test_splits_are_cut_in_order_of_time(dataset: Dataset) -> None:
    spans = {}
    for split in ("train", "val", "test"):
        columns = dataset.columns(split)
        for channel in (0, 1):
            rows = (columns["channel"] == channel).numpy()
            values = columns["values"].numpy()[rows]
            for start, length, row in zip(
                columns["start"].numpy()[rows], columns["length"].numpy()[rows], values, strict=True
            ):
                assert np.allclose(row[:length], waves()[start : start + length, channel], atol=1e-5)
            first = columns["start"].numpy()[rows] + (0 if split == "train" else 24)
            spans[split] = (first.min(), (columns["start"] + columns["length"]).numpy()[rows].max())
    assert spans["train"] == (0, 320)
    assert spans["val"] == (320, 360), "what is asked for lies behind the training part"
    assert spans["test"] == (360, STEPS)


def test_training_rows_begin_anywhere_and_tell_their_head_at_times(dataset: Dataset) -> None:
    batches = Batches(dataset, "train", 256, 0).from_position(Position())
    batch, _ = next(batches)
    assert batch.data.shape == (256, HEAD + 32)
    assert set(batch.data[:, 0].tolist()) == {END}
    given, head = batch.given, batch.data[:, 1:HEAD]
    assert given is not None
    free = given == 1
    assert 30 < int(free.sum()) < 100, "a quarter of the rows learn their head"
    assert bool((head[free] != ANY).all())
    assert bool((head[~free, 1:] == ANY).all())
    assert 0 < int((head[~free, 0] == ANY).sum()) < int((~free).sum())


def test_held_out_rows_are_forecasts(dataset: Dataset) -> None:
    batch = dataset.whole("test")
    assert batch.given is not None
    assert set(batch.given.tolist()) == {HEAD + 24}
    assert bool((batch.data[:, 2:HEAD] == ANY).all())
    binning = dataset.tensors.binning if isinstance(dataset.tensors, Series) else None
    assert binning is not None
    assert dataset.shape.vocabulary == binning.vocabulary
    assert dataset.shape.data == (binning.length,)


def test_equal_input_gives_equal_bytes(dataset: Dataset, tmp_path: Path) -> None:
    again = prepared(tmp_path / "project")
    assert again.revision == dataset.revision
    other = prepared(tmp_path / "project", bins=33)
    assert other.revision != dataset.revision


def test_gaps_are_filled_or_left_out_and_told(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    lines = written(root / "waves.csv").read_text().splitlines()
    lines[11] = f"{lines[11].partition(',')[0]},,5"
    del lines[101:121]
    (root / "waves.csv").write_text("\n".join(lines))
    found = prepared(root, fill=3)
    report = json.loads((found.folder / "report.json").read_text())
    gaps = report["gaps"]
    assert (gaps["missing"], gaps["rows_inserted"], gaps["interpolated"]) == (41, 20, 1)
    assert gaps["windows_left_out"]["train"] == 2 * (20 + 31)
    columns = found.columns("train")
    assert bool((columns["values"] == columns["values"]).all()), "no row has a gap"
    row = describe(project_of(root), root / "waves.csv", {"context": 24, "horizon": 8})
    (note,) = survey(project_of(root), "it", row).notes
    assert note.startswith(
        "waves.csv has 41 missing values, among them 20 steps that were left out; gaps of at most 8"
    )


def test_rows_out_of_order_are_sorted_and_told(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project")
    head, *lines = (project.root / "waves.csv").read_text().splitlines()
    before = prepared(tmp_path / "project").revision
    (project.root / "waves.csv").write_text("\n".join([head, *reversed(lines)]))
    row = describe(project, project.root / "waves.csv", {"context": 24, "horizon": 8})
    assert survey(project, "it", row).notes == ("waves.csv was not in order of time, and is sorted.",)
    assert prepared(tmp_path / "project").revision == before


def test_parquet_and_folders_give_channels(tmp_path: Path) -> None:
    root, folder = tmp_path / "project", tmp_path / "project" / "raw"
    folder.mkdir(parents=True)
    low, high = waves().T
    times = np.datetime64("2024-01-01", "s") + np.arange(STEPS) * np.timedelta64(60, "s")
    pq.write_table(pa.table({"when": times, "low": low, "high": high}), folder / "sea.parquet")
    written(folder / "lake.csv")
    row = describe(project_of(root), folder, {"context": 24, "horizon": 8})
    assert isinstance(row, SeriesFilesRow)
    assert survey(project_of(root), "it", row).entries == 4
    found = prepared(root, path="raw")
    assert isinstance(found.tensors, Series)
    assert found.tensors.binning.names == ["lake:low", "lake:high", "sea:low", "sea:high"]
    one = prepared(root, path="raw/sea.parquet", columns=["high"])
    assert isinstance(one.tensors, Series)
    assert one.tensors.binning.names == ["high"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"context": 384}, "is too short: of 2 series 0 fit (2 too short (400 steps))"),
        ({"columns": ["middle"]}, "There is no channel in waves.csv “middle”"),
        ({"time": "then"}, "There is no column in waves.csv “then”"),
        ({"path": "none.csv"}, "There is no "),
    ],
)
def test_what_cannot_be_prepared_is_said(tmp_path: Path, row: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "project", **row)
    assert sentence in str(caught.value)
    assert not (tmp_path / "project" / "prepared" / "waves").exists()


@pytest.mark.parametrize("columns", [["low", "low"]])
def test_rows_that_make_no_sense_are_refused(tmp_path: Path, columns: list[str]) -> None:
    with pytest.raises(UserError, match="a channel stands there twice"):
        project_of(tmp_path / "project", columns=columns)


def test_text_and_pictures_stay_what_they_are(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project")
    (tmp_path / "notes.txt").write_text("Once upon a time\nthere was a number\n1\n2\n" * 9)
    assert describe(project, tmp_path / "notes.txt", {}).modality == "text"
    (tmp_path / "numbers.txt").write_text("1.5,2\n2.5,3\n" * 99)
    assert describe(project, tmp_path / "numbers.txt", {}).modality == "series"
    with pytest.raises(UserError, match="holds series; leave out --unit"):
        describe(project, tmp_path / "numbers.txt", {"unit": "line"})


def test_too_little_is_not_added(tmp_path: Path) -> None:
    project = project_of(tmp_path / "project")
    written(tmp_path / "few.csv", 50)
    row = describe(project, tmp_path / "few.csv", {})
    before = (project.root / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=r"windows of 96 \+ 24 steps"):
        add(project, "few", row)
    assert (project.root / "params.yaml").read_bytes() == before


@pytest.mark.parametrize("series", ["co2", "elnino", "sunspots"])
def test_bundled_series_are_there(tmp_path: Path, series: str) -> None:
    root = tmp_path / "project"
    row = {"source": "statsmodels", "series": series, "context": 24, "horizon": 8, "path": None}
    project = project_of(root)
    text = "datasets:\n  it: {source: statsmodels, series: " + series + ", context: 24, horizon: 8}\n"
    (root / "params.yaml").write_text(text)
    from components.project import open_project

    found = prepare(open_project(root), "it", root / "prepared" / "it")
    assert found.rows("test") >= 2, row
    assert found.licence == "public domain"
    assert project.root == root
