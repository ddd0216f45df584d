"""Recordings: every source, every fault of a file, and the bytes that are prepared of them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from components.data.dataset import Batches, Dataset, Position, open_dataset
from components.data.plucks import LOWEST, NOTES, STEPS
from components.data.prepare import prepare
from components.data.stages import ensure_stage
from components.errors import UserError
from components.modalities.strings import pluck
from components.project import Project, open_project

Bare = Callable[[dict[str, Any]], Project]
OWN = {"source": "recordings", "path": "raw", "seconds": 0.1, "split": {"val": 0.25, "test": 0.25}}
T = 800


def tone(number: int, seconds: float = 0.08, rate: int = 8000, loudness: float = 0.5) -> np.ndarray[Any, Any]:
    """A tone that no other number has."""
    return loudness * np.sin(2 * np.pi * (300 + 7 * number) * np.arange(round(seconds * rate)) / rate)


def put(path: Path, levels: np.ndarray[Any, Any], rate: int = 8000, subtype: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, levels, rate, subtype)


def tones(folder: Path, numbers: range) -> None:
    for number in numbers:
        put(folder / f"{number:03d}.wav", tone(number))


def made(project: Project, name: str = "mine") -> tuple[Dataset, dict[str, Any]]:
    dataset = prepare(project, name, project.prepared / name)
    return dataset, json.loads((dataset.folder / "report.json").read_text())


def reasons(report: dict[str, Any]) -> dict[str, list[str]]:
    return {reason: found["files"] for reason, found in report["dropped"].items()}


def clips(dataset: Dataset) -> dict[str, np.ndarray[Any, Any]]:
    """All clips int16 [N, T] and their labels."""
    columns = [dataset.columns(split) for split in ("train", "val", "test")]
    return {name: np.concatenate([part[name].numpy() for part in columns]) for name in columns[0]}


def mine(bare: Bare, **fields: Any) -> Project:
    """A project with twelve tones in two class folders."""
    project = bare({"mine": {**OWN, **fields}})
    tones(project.root / "raw" / "low", range(6))
    tones(project.root / "raw" / "high", range(100, 106))
    return project


def test_class_folders_become_padded_clips(bare: Bare) -> None:
    dataset, report = made(mine(bare, licence="CC0"))
    assert (dataset.modality, dataset.shape.data, dataset.classes) == ("audio", (T,), ("high", "low"))
    assert (dataset.licence, dataset.source, dataset.details) == ("CC0", "recordings", {"rate": 8000})
    assert json.loads((dataset.folder / "audio.json").read_text()) == {"rate": 8000}
    assert (report["read"], report["kept"], report["cut"], report["dropped"]) == (12, 12, 0, {})
    assert report["ignored_columns"] == []
    assert sum(found["rows"] for found in report["splits"].values()) == 12
    counts = [found["classes"]["low"] for found in report["splits"].values()]
    assert sum(counts) == 6
    train = report["splits"]["train"]
    assert train["minutes"] == round(train["rows"] * 0.1 / 60, 2)
    levels = clips(dataset)["audio"]
    assert levels.shape == (12, T)
    assert set(np.abs(levels.astype(int)).max(1)) == {round(0.9 * 32767)}
    assert not levels[:, 640:].any()
    assert (dataset.folder / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_prepared_recordings_are_read_as_batches(bare: Bare) -> None:
    dataset, _ = made(mine(bare))
    batch, _ = next(Batches(dataset, "train", 4, seed=0).from_position(Position()))
    assert batch.data.shape == (4, T)
    assert batch.label is not None
    assert float(batch.data.abs().max()) <= 1


def test_equal_input_gives_equal_bytes(bare: Bare) -> None:
    project = mine(bare)
    first, _ = made(project)
    before = {path.name: path.read_bytes() for path in sorted(first.folder.rglob("*")) if path.is_file()}
    again, _ = made(project)
    assert {
        path.name: path.read_bytes() for path in sorted(again.folder.rglob("*")) if path.is_file()
    } == before


def test_the_rate_is_in_the_revision(bare: Bare) -> None:
    """Half the rate and twice the length have as many samples."""
    short = made(mine(bare, normalize=False))[0].revision
    project = bare({"mine": {**OWN, "normalize": False, "rate": 4000, "seconds": 0.2}})
    for path in (project.root / "raw").rglob("*.wav"):
        levels, _ = soundfile.read(path)
        put(path, levels, 4000)
    other, _ = made(project)
    assert other.shape.data == (T,)
    assert other.revision != short


def test_longer_recordings_are_cut_and_counted(bare: Bare) -> None:
    project = mine(bare)
    long = tone(50, 0.5)
    put(project.root / "raw" / "low" / "long.wav", long)
    put(project.root / "raw" / "low" / "same.wav", long[:T])  # the same as far as it is kept
    dataset, report = made(project)
    assert report["cut"] == 1
    assert reasons(report) == {"the same recording as another": ["low/same.wav"]}
    assert clips(dataset)["audio"][:, -100:].any()


def test_leading_silence_stays(bare: Bare) -> None:
    project = bare({"mine": OWN})
    for number in range(12):
        put(project.root / "raw" / f"{number}.wav", np.concatenate([np.zeros(400), tone(number, 0.05)]))
    dataset, _ = made(project)
    assert dataset.classes == ()
    assert not clips(dataset)["audio"][:, :400].any()


def test_loudness_stays_unless_it_is_normalized(bare: Bare) -> None:
    project = mine(bare, normalize=False)
    put(project.root / "raw" / "low" / "silent.wav", np.zeros(100))
    put(project.root / "raw" / "low" / "beyond.wav", 3 * tone(70), subtype="FLOAT")
    dataset, report = made(project)
    assert report["dropped"] == {}
    peaks = np.abs(clips(dataset)["audio"].astype(int)).max(1)
    assert sorted(peaks)[0] == 0
    assert sorted(peaks)[-1] == 32767  # cut off, not wrapped around
    assert round(float(np.median(peaks)) / 32767, 2) == 0.5


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("a.wav", "PCM_U8"),
        ("a.wav", "PCM_24"),
        ("a.wav", "FLOAT"),
        ("a.flac", None),
        ("a.ogg", None),
        ("a.mp3", None),
    ],
    ids=["8 bits", "24 bits", "float", "flac", "ogg", "mp3"],
)
def test_formats(bare: Bare, name: str, subtype: str | None) -> None:
    project = mine(bare, seconds=0.3)
    put(project.root / "raw" / "low" / name, tone(60, 0.2), subtype=subtype)
    dataset, report = made(project)
    assert (report["kept"], report["dropped"]) == (13, {})
    wanted = tone(60, 0.2)
    scores = [abs(np.corrcoef(row[: len(wanted)], wanted)[0, 1]) for row in clips(dataset)["audio"]]
    assert max(scores) > 0.97


def test_stereo_is_averaged_and_other_rates_are_resampled(bare: Bare) -> None:
    project = mine(bare, normalize=False)
    at = np.arange(4410) / 44100
    left = 0.8 * np.sin(2 * np.pi * 1000 * at)
    high = 0.5 * np.sin(2 * np.pi * 9000 * at)  # above what 8 kHz can hold
    put(project.root / "raw" / "low" / "cd.wav", np.stack([left + high, high], axis=1) / 2, 44100)
    dataset, report = made(project)
    assert report["cut"] == 0
    rows = clips(dataset)["audio"].astype(float) / 32767
    wanted = 0.2 * np.sin(2 * np.pi * 1000 * np.arange(T) / 8000)
    best = min(rows, key=lambda row: float(np.abs(row - wanted)[50:-50].max()))
    assert float(np.abs(best - wanted)[50:-50].max()) < 0.005


def test_a_cut_recording_is_what_the_whole_one_begins_with(bare: Bare) -> None:
    """Only what is needed is read, and the filter of the resampling sees as much as it would of all."""
    from components.audio_rows import PlucksRow
    from components.data.sound import read_clip, resampled

    row = PlucksRow(source="plucks", seconds=0.1, rate=8000)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 44100).astype(np.float32)
    stream = io.BytesIO()
    soundfile.write(stream, noise, 44100, format="WAV", subtype="FLOAT")
    clip, cut = read_clip(stream.getvalue(), row)
    whole = (resampled(noise, 44100, 8000)[:T].astype(float) * 32767).round()
    assert cut
    assert np.abs(clip.reshape(-1).view("<i2") - whole).max() <= 1


def silent(path: Path) -> None:
    put(path, np.zeros(400))


def opposed(path: Path) -> None:
    put(path, np.stack([tone(1), -tone(1)], axis=1))


def empty(path: Path) -> None:
    put(path, np.zeros(0))


def no_numbers(path: Path) -> None:
    put(path, np.array([0.1, np.nan, 0.2]), subtype="FLOAT")


def infinite(path: Path) -> None:
    put(path, np.array([0.1, np.inf, 0.2]), subtype="FLOAT")


def words(path: Path) -> None:
    path.write_text("no sound")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def headless(path: Path) -> None:
    put(path, tone(90))
    path.write_bytes(path.read_bytes()[:20])


def half(path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 800)
    soundfile.write(path, noise, 8000, format="FLAC")
    path.write_bytes(path.read_bytes()[:400])


def endless(path: Path) -> None:
    soundfile.write(path, np.zeros(4000 * 601, np.int16), 4000, format="FLAC")


def many(path: Path) -> None:
    put(path, np.ones((10, 9)) / 2)


def slow(path: Path) -> None:
    put(path, np.ones(100) / 2, 100)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (silent, "silence as far as it is kept"),
        (opposed, "silence as far as it is kept"),
        (empty, "an empty recording"),
        (no_numbers, "a recording with levels that are no numbers"),
        (infinite, "a recording with levels that are no numbers"),
        (words, "no recording in a format that can be read"),
        (nothing, "no recording in a format that can be read"),
        (headless, "a broken recording"),
        (half, "a broken recording"),
        (endless, "a recording of more than 10 minutes"),
        (many, "a recording of more than 8 channels"),
        (slow, "a recording of a rate that is not read"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_reason(
    bare: Bare, spoil: Callable[[Path], None], reason: str
) -> None:
    project = mine(bare)
    spoil(project.root / "raw" / "low" / "bad.wav")
    _, report = made(project)
    assert report["kept"] == 12
    assert reasons(report) == {reason: ["low/bad.wav"]}


def test_a_file_may_be_called_anything(bare: Bare) -> None:
    project = mine(bare)
    place = project.root / "raw" / "low" / "odd.wav"
    put(place, tone(93))
    place.rename(place.with_name("odd.raw"))
    put(place, tone(94))
    place.rename(place.with_name("\udcff.wav"))
    (place.parent / "levels.raw").write_bytes(bytes(100))
    _, report = made(project)
    assert report["kept"] == 14
    assert reasons(report) == {"no recording in a format that can be read": ["low/levels.raw"]}


def test_a_damaged_member_of_an_archive_is_left_out_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever bytes are changed, it is read, or left out."""
    from components.audio_rows import PlucksRow
    from components.data.example import NotARecording
    from components.data.sound import read_clip

    random, row, read = np.random.default_rng(0), PlucksRow(source="plucks"), 0
    for kind in ("WAV", "FLAC", "OGG", "AIFF"):
        stream = io.BytesIO()
        soundfile.write(stream, random.uniform(-0.5, 0.5, 4000), 8000, format=kind)
        for _ in range(60):
            damaged = bytearray(stream.getvalue())
            damaged[int(random.integers(100))] = int(random.integers(256))
            try:
                read_clip(bytes(damaged[: int(random.integers(len(damaged)))]), row)
                read += 1
            except NotARecording:
                continue
    assert read > 50
    assert capfd.readouterr().err == ""


def test_a_wave_file_that_was_cut_short_is_kept_as_far_as_it_goes(bare: Bare) -> None:
    project = mine(bare)
    place = project.root / "raw" / "low" / "short.wav"
    put(place, tone(91))
    place.write_bytes(place.read_bytes()[:-300])
    _, report = made(project)
    assert (report["kept"], report["dropped"]) == (13, {})


def test_one_content_counts_once(bare: Bare) -> None:
    project = mine(bare)
    put(project.root / "raw" / "low" / "again.wav", tone(0))
    levels, _ = soundfile.read(project.root / "raw" / "low" / "001.wav", dtype="int16")
    put(project.root / "raw" / "high" / "again.flac", levels)
    _, report = made(project)
    assert reasons(report) == {
        "the same recording as another": ["low/again.wav"],
        "the same recording as another in a different class": ["low/001.wav"],
    }


def test_metadata_gives_the_labels(bare: Bare) -> None:
    project = bare({"mine": {**OWN, "words": {7: "seven"}}})
    tones(project.root / "raw", range(14))
    rows = [
        {"file_name": f"{number:03d}.wav", "label": 7 if number % 2 else "eight", "who": "me"}
        for number in range(13)
    ]
    (project.root / "raw" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset, report = made(project)
    assert dataset.classes == ("seven", "eight")
    assert report["ignored_columns"] == ["who"]
    assert reasons(report) == {"not named in metadata.jsonl": ["013.wav"]}


def test_names_give_labels_and_the_test(bare: Bare) -> None:
    fields = {
        "names": "(?P<label>[0-9])_[a-z]+_[0-9]+[.]wav",
        "held_out": "_[0-1][.]wav$",
        "words": {"0": "zero", "1": "one"},
    }
    project = bare({"mine": {**OWN, **fields}})
    for number in range(16):
        put(project.root / "raw" / f"{number % 2}_ann_{number // 2}.wav", tone(number))
    put(project.root / "raw" / "2_ann_5.wav", tone(40))
    put(project.root / "raw" / "notes.wav", tone(41))
    dataset, report = made(project)
    assert dataset.classes == ("zero", "one", "2")
    assert dataset.rows("test") == 4
    assert report["splits"]["test"]["classes"] == {"zero": 2, "one": 2, "2": 0}
    assert reasons(report) == {"of a name that “names” does not match": ["notes.wav"]}


def test_official_folders_are_kept_with_names(bare: Bare) -> None:
    project = bare({"mine": {**OWN, "names": "(?P<label>[a-z])[0-9]*[.]wav"}})
    for split, start in (("train", 0), ("valid", 20), ("test", 30)):
        for number in range(start, start + 3):
            put(project.root / "raw" / split / f"{'ab'[number % 2]}{number}.wav", tone(number))
    put(project.root / "raw" / "a.wav", tone(60))
    dataset, report = made(project)
    assert [dataset.rows(split) for split in ("train", "val", "test")] == [3, 3, 3]
    assert reasons(report) == {"beside the folders of the splits, so in none of them": ["a.wav"]}


@pytest.mark.parametrize("parts", [("all",), ("train", "test")])
def test_archives(
    bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...]
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    files = {}
    for place, part in enumerate(parts):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for number in range(12):
                sound = io.BytesIO()
                soundfile.write(sound, tone(20 * place + number), 8000, format="WAV")
                about = tarfile.TarInfo(f"clips/{'ab'[number % 2]}/{number}.wav")
                about.size = len(sound.getvalue())
                tar.addfile(about, io.BytesIO(sound.getvalue()))
        (mirror / f"{part}.tar").write_bytes(stream.getvalue())
        digest = hashlib.sha256(stream.getvalue()).hexdigest()
        files[part] = {"url": f"mirror:{part}.tar", "sha256": digest}
    monkeypatch.setenv("GENLOOM_MIRROR", str(mirror))
    row = {key: value for key, value in OWN.items() if key != "path"}
    dataset, report = made(bare({"mine": {**row, "files": files}}))
    assert dataset.classes == ("a", "b")
    assert report["kept"] == 12 * len(parts)
    if len(parts) > 1:
        assert dataset.rows("test") == 12


def test_plucks_are_always_the_same(bare: Bare) -> None:
    row = {"source": "plucks", "count": 64}
    project = bare({"plucks": row})
    dataset, report = made(project, "plucks")
    assert (dataset.shape.data, dataset.classes, dataset.details) == ((2000,), NOTES, {"rate": 8000})
    assert (report["kept"], report["cut"], report["dropped"]) == (64, 0, {})
    assert made(project, "plucks")[0].revision == dataset.revision
    found = clips(dataset)
    assert list(np.bincount(found["label"])) == [8] * 8
    peaks = np.abs(found["audio"].astype(int)).max(1)
    assert peaks.min() < 0.6 * peaks.max()
    more, _ = made(bare({"plucks": {**row, "count": 72}}), "plucks")
    assert {level.tobytes() for level in found["audio"]} < {level.tobytes() for level in clips(more)["audio"]}


@pytest.mark.parametrize("rate", [4000, 8000, 48_000])
@pytest.mark.parametrize("step", [0, 4, 12])
def test_a_pluck_is_in_tune(rate: int, step: int) -> None:
    assert step in STEPS
    pitch = LOWEST * 2 ** (step / 12)
    sound = pluck(pitch, 1.0, rate, rate, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(rate)))
    near = slice(round(pitch * 0.7), round(pitch * 1.4))  # a bin is a hertz
    assert abs(near.start + int(spectrum[near].argmax()) - pitch) < 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rate": 100},
            "datasets.mine.recordings.rate is 100: Input should be greater than or equal to 4000",
        ),
        ({"seconds": 31}, "recordings.seconds is 31: Input should be less than or equal to 30"),
        ({"seconds": float("nan")}, "recordings.seconds is nan"),
        ({"names": "(["}, "recordings.names is .*: this regular expression does not compile .*; mend it"),
        ({"names": "[a-z]+"}, "it has no group “label”; write one such as"),
        ({"held_out": "(["}, "recordings.held_out is .*: this regular expression does not compile"),
        ({"words": {"7": " "}}, "recordings.words.7 is ' ': a class needs a name; write one"),
        ({"held_out": ""}, "recordings.held_out is '': it is found in every name"),
        ({"words": "seven"}, "recordings.words is 'seven': Input should be a valid"),
        ({"path": None}, "give either its path or its files, one of the two"),
        (
            {"second": 1},
            r"datasets\.mine\.recordings\.second: There is no field “second”; did you mean seconds",
        ),
        (
            {
                "path": None,
                "held_out": "x",
                "files": {part: {"url": "mirror:a.tar", "sha256": "0" * 64} for part in ("train", "test")},
            },
            "held_out and files.test both say what the test is; leave one of them out",
        ),
    ],
)
def test_a_bad_row_is_refused(bare: Bare, fields: dict[str, Any], message: str) -> None:
    row = {key: value for key, value in {**OWN, **fields}.items() if value is not None}
    with pytest.raises(UserError, match=message):
        bare({"mine": row})


def test_too_few_plucks_are_refused(bare: Bare) -> None:
    with pytest.raises(UserError, match=r"plucks\.count is 3: Input should be greater than or equal to 8"):
        bare({"plucks": {"source": "plucks", "count": 3}})


def test_what_is_missing_is_one_sentence(bare: Bare) -> None:
    project = bare({"mine": OWN})
    with pytest.raises(UserError, match=r"There is no .*raw, where params.yaml says that data are"):
        made(project)
    (project.root / "raw").mkdir()
    with pytest.raises(UserError, match="is empty; put recordings into it, one folder a class"):
        made(project)
    (project.root / "raw" / "a.txt").write_text("x")
    with pytest.raises(
        UserError, match=r"has no recording that can be read: 1 found, 1 left out .1 no recor"
    ):
        made(project)
    tones(project.root / "raw", range(1))
    with pytest.raises(UserError, match="has too few recordings: 2 found, 1 left out"):
        made(project)
    assert list(project.prepared.iterdir()) == []


def test_the_stage_depends_on_the_recordings_and_the_code(project: Path) -> None:
    tones(project / "raw", range(3))
    params = (project / "params.yaml").read_text()
    row = "datasets:\n  mine:\n    source: recordings\n    path: raw\n"
    (project / "params.yaml").write_text(params.replace("datasets:\n", row, 1))
    ensure_stage(open_project(project), "mine")
    written = (project / "dvc.yaml").read_text().partition("prepare-mine:")[2]
    for path in ("raw", "components/data/recordings.py", "components/data/sound.py", "datasets.mine"):
        assert f"    - {path}\n" in written
    before = (project / "dvc.yaml").read_text()
    for name in ("plucks", "spoken-digits"):
        ensure_stage(open_project(project), name)
    assert (project / "dvc.yaml").read_text() == before


def test_files_of_python_itself_are_read(bare: Bare) -> None:
    """What the `wave` module writes, of two channels."""
    project = mine(bare)
    with wave.open(str(project.root / "raw" / "low" / "own.wav"), "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes((np.repeat(tone(80), 2) * 32767).astype("<i2").tobytes())
    dataset, report = made(project)
    assert report["kept"] == 13
    assert open_dataset(dataset.folder).revision == dataset.revision
