"""Music: every source, every fault of a file, and the rows that are prepared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from components.data.counterpoint import RANGES, piece
from components.data.dataset import Batches, Dataset, Position, open_dataset
from components.data.describe import is_music
from components.data.music import content_id
from components.data.prepare import prepare
from components.errors import UserError
from components.evaluation import corpus
from components.modalities.midi import write_midi
from components.modalities.music import Music
from components.modalities.score import Score
from components.project import Project

Bare = Callable[[dict[str, Any]], Project]
OWN = {"source": "midi", "path": "raw", "steps": 2, "context": 64, "split": {"val": 0.2, "test": 0.2}}


def made(project: Project, name: str = "mine") -> tuple[Dataset, dict[str, Any]]:
    dataset = prepare(project, name, project.prepared / name)
    return dataset, json.loads((dataset.folder / "report.json").read_text())


def files(folder: Path, numbers: range, by: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number:03d}.mid").write_bytes(write_midi(piece(number).moved(by)))


def scores(dataset: Dataset, split: Any) -> list[Score]:
    assert isinstance(dataset.tensors, Music)
    found = corpus.documents(corpus.columns_of(dataset, split), split == "train")
    return [dataset.tensors.notation.decode(one.tokens.tolist()) for one in found]


def classes(score: Score) -> frozenset[tuple[int, ...]]:
    """The notes up to octaves, by which held-out ones are moved into the range of the others."""
    return frozenset((note.start, note.voice, note.pitch % 12, note.length) for note in score.notes)


def test_counterpoint_keeps_the_rules() -> None:
    for number in range(60):
        score = piece(number)
        assert score == piece(number), "the number decides all of it"
        frames = [{note.voice: note.pitch for note in score.cut(step, step + 1).notes} for step in range(32)]
        key = frames[-1][3] % 12
        assert all(len(frame) == 4 for frame in frames), "nobody rests"
        for frame in frames:
            assert frame[0] > frame[1] > frame[2] > frame[3]
            assert frame[0] - frame[1] <= 12
            assert frame[1] - frame[2] <= 12
            assert all(low - 4 <= frame[voice] <= high + 4 for voice, (low, high) in enumerate(RANGES))
        assert {pitch % 12 for pitch in frames[-1].values()} == {(key + tone) % 12 for tone in (0, 4, 7)}
        for before, after in pairwise(frames):
            for upper, lower in combinations(range(4), 2):
                first, second = before[upper] - before[lower], after[upper] - after[lower]
                assert before[upper] == after[upper] or first % 12 != second % 12 or first % 12 not in (0, 7)


def test_rows_hold_the_pieces_as_they_are(bare: Bare) -> None:
    dataset, report = made(bare({"mine": {"source": "counterpoint", "count": 40}}))
    assert (dataset.modality, dataset.shape.data, report["kept"]) == ("music", (132,), 40)
    assert dataset.details["frames"] == {
        name: 32 * found["pieces"] for name, found in report["splits"].items()
    }
    wanted = {classes(piece(number)) for number in range(40)}
    for split in ("train", "val", "test"):
        found = scores(dataset, split)
        assert len(found) == report["splits"][split]["pieces"] > 0
        assert {classes(score) for score in found} <= wanted
        wanted -= {classes(score) for score in found}
    assert not wanted
    assert (dataset.folder / "preview.png").read_bytes()[:4] == b"\x89PNG"
    again = prepare_again(dataset)
    assert (again.revision, again.files) == (dataset.revision, dataset.files)


def prepare_again(dataset: Dataset) -> Dataset:
    from components.project import open_project

    project = open_project()
    return prepare(project, dataset.name, dataset.folder)


def test_long_pieces_are_read_in_windows_and_each_split_is_whole(bare: Bare) -> None:
    dataset, report = made(bare({"mine": {"source": "counterpoint", "count": 30, "context": 50}}))
    assert dataset.rows("test") > report["splits"]["test"]["pieces"]
    assert all(score.length == 32 for split in ("train", "val", "test") for score in scores(dataset, split))
    test = dataset.whole("test")
    assert test.given is not None
    assert int((test.length - test.given).sum()) == dataset.details["tokens"]["test"], "each token once"
    batch, _ = next(Batches(dataset, "train", 4, 0).from_position(Position()))
    assert batch.data.shape == (4, 50)
    assert batch.given is None


@pytest.mark.parametrize("notation", ["grid", "events"])
def test_a_folder_of_midi_files(bare: Bare, notation: str) -> None:
    project = bare({"mine": {**OWN, "notation": notation}})
    files(project.root / "raw" / "deep", range(30))
    files(project.root / "raw" / "again", range(3), by=2)
    (project.root / "raw" / "broken.mid").write_bytes(b"MThd and nothing else")
    (project.root / "raw" / "cover.txt").write_text("no music")
    (project.root / "raw" / "solo.MIDI").write_bytes(write_midi(piece(99).cut(0, 4)))
    one_voice = replace(piece(98), notes=tuple(note for note in piece(98).notes if note.voice == 0))
    (project.root / "raw" / "one.mid").write_bytes(write_midi(one_voice))
    dataset, report = made(project)
    dropped = {reason: found["count"] for reason, found in report["dropped"].items()}
    few = {"not of 4 voices": 1} if notation == "grid" else {}
    assert dropped == {"a broken MIDI file": 1, "the same notes as another": 3, **few}
    assert notation == "events" or report["dropped"]["not of 4 voices"]["files"] == ["one.mid"]
    assert report["kept"] == 36 - sum(dropped.values())
    assert dataset.details["notation"] == notation
    found = [score for split in ("train", "val", "test") for score in scores(dataset, split)]
    assert {score.length for score in found} <= {64, 8}
    assert max(score.length for score in found) == 64


def test_official_folders_are_kept(bare: Bare) -> None:
    project = bare({"mine": OWN})
    for split, numbers in (("train", range(8)), ("val", range(8, 11)), ("test", range(11, 15))):
        files(project.root / "raw" / split, numbers)
    files(project.root / "raw" / "train" / "leak", range(11, 12), by=5)
    _, report = made(project)
    assert {split: found["pieces"] for split, found in report["splits"].items()} == {
        "train": 8,
        "val": 3,
        "test": 4,
    }


def test_a_folder_is_music_if_no_kind_of_files_is_more_frequent(tmp_path: Path) -> None:
    assert not is_music(tmp_path)
    (tmp_path / "a.mid").write_bytes(b"")
    (tmp_path / "cover.png").write_bytes(b"")
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "LICENSE").write_bytes(b"")
    assert is_music(tmp_path)
    assert is_music(tmp_path / "a.mid")
    (tmp_path / "back.png").write_bytes(b"")
    assert not is_music(tmp_path)


def test_one_piece_in_two_keys_is_one_piece() -> None:
    assert content_id(piece(1)) == content_id(piece(1).moved(3)) != content_id(piece(2))


def chorale(number: int) -> list[list[int]]:
    """A piece as the file of chorales has it, in sixteenths."""
    frames = [[-1] * 4 for _ in range(32 * 4)]
    for note in piece(number).notes:
        for step in range(4 * note.start, 4 * note.end):
            frames[step][note.voice] = note.pitch
    return frames


def chorales(project: Project, content: Any) -> None:
    (project.root / "chorales.json").write_text(json.dumps(content))


def test_grids_in_json_have_official_splits(bare: Bare) -> None:
    project = bare({"mine": {"source": "chorales", "path": "chorales.json", "steps": 1, "every": 4}})
    silent = [[-1, -1, -1, -1]]
    chorales(
        project,
        {
            "train": [chorale(number) for number in range(5)],
            "valid": [chorale(5), silent],
            "test": [chorale(6), chorale(0)],
        },
    )
    dataset, report = made(project)
    sizes = {split: found["pieces"] for split, found in report["splits"].items()}
    assert sizes == {"train": 4, "val": 1, "test": 2}, "what is in two splits is held out"
    assert {reason: found["count"] for reason, found in report["dropped"].items()} == {
        "no notes": 1,
        "the same notes as another": 1,
    }
    assert {score.notes for score in scores(dataset, "test")} <= {piece(0).notes, piece(6).notes}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "holds no object of lists called train, val, valid, validation, test"),
        ({"train": [[[60, 55]]]}, "chorales.json, train#0 is no list of steps of 4 pitches each"),
        ({"train": [[[60, 55, 50, "a"]]]}, "train#0 holds a pitch that is no number up to 127"),
        ({"train": [[[60, 55, 50, 45]]]}, "too few pieces: 1 found"),
    ],
)
def test_wrong_grids_are_told(bare: Bare, content: Any, sentence: str) -> None:
    project = bare({"mine": {"source": "chorales", "path": "chorales.json"}})
    chorales(project, content)
    with pytest.raises(UserError, match=sentence):
        made(project)
    assert not (project.prepared / "mine").exists()


def test_wrong_folders_are_told(bare: Bare) -> None:
    project = bare({"mine": OWN})
    with pytest.raises(UserError, match=r"There is no .*raw"):
        made(project)
    (project.root / "raw").mkdir()
    with pytest.raises(UserError, match="holds no MIDI file"):
        made(project)
    (project.root / "raw" / "a.mid").write_bytes(b"MThd")
    with pytest.raises(UserError, match="has no piece that can be read: 1 found, 1 left out"):
        made(project)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"source": "midi"}, "give either its path or its files"),
        ({"source": "counterpoint", "notation": "events"}, "notation"),
        ({"source": "chorales", "path": "x", "transpose": 12}, "transpose"),
        (
            {"source": "chorales", "files": {"train": {"url": "mirror:x", "sha256": "0" * 64}}},
            "one file holds all splits; call it “all”",
        ),
    ],
)
def test_wrong_rows_are_told(bare: Bare, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        bare({"mine": row})


def test_what_was_prepared_is_checked(bare: Bare) -> None:
    dataset, _ = made(bare({"mine": {"source": "counterpoint", "count": 30}}))
    (dataset.folder / "music.json").write_text("{}")
    with pytest.raises(UserError, match=r"music\.json is missing or was altered"):
        open_dataset(dataset.folder)
