"""Models of music are measured: nats a frame, histograms, form and copies; beside real pieces and n-grams."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from components.artifact import save
from components.data.counterpoint import piece, pieces
from components.data.dataset import Batches, Dataset, Position
from components.data.prepare import prepare
from components.errors import UserError
from components.evaluation.evaluate import evaluate
from components.evaluation.measure_music import MusicMeasurement, one_after_another
from components.evaluation.measurement import Extent, Subject
from components.evaluation.music import (
    Alphabet,
    compared,
    copies,
    density,
    distances,
    empty_bars,
    features,
    form,
    likeness,
    lines,
    repeated_bars,
    scale_consistency,
)
from components.evaluation.overlap import longest_overlaps
from components.evaluation.report import Report, read_report, sentence
from components.families.family import END, NOTHING, Requests
from components.families.gpt import GPT
from components.modalities.midi import read_midi, write_midi
from components.modalities.music import FEATURES, Music
from components.modalities.score import Note, Score, Voice, of_frames
from components.project import open_project
from tests.components.families.rows import an_about

TINY = GPT(layers=1, heads=2, width=32)
ROW = "datasets:\n  made:\n    source: counterpoint\n    modality: music\n    count: 60\n"


def silent(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_text(ROW)
    return prepare(open_project(root), "made", root / "made")


def trained(folder: Path, dataset: Dataset, steps: int) -> Path:
    """A small model, trained for some steps in plain torch."""
    torch.manual_seed(0)
    networks = TINY.networks(dataset.shape)
    optimizers = TINY.optimizers("decoder", networks["decoder"])
    stream = Batches(dataset, "train", 16, 0).from_position(Position())
    for step, (batch, _) in zip(range(steps), stream, strict=False):
        for optimizer in optimizers:
            optimizer.zero_grad()
        TINY.loss("decoder", networks, batch, step)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
    about = dataclasses.replace(an_about(dataset.shape), modality="music")
    save(folder, TINY, networks, dataset.shape, about, dataset.folder)
    return folder


@pytest.fixture(scope="module")
def report(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    folder = tmp_path_factory.mktemp("model")
    artifact = trained(folder / "artifact", dataset, 60)
    return evaluate(artifact, dataset, folder / "report", folder / "cache", samples=100), folder / "report"


def test_a_whole_evaluation(report: tuple[Report, Path], dataset: Dataset) -> None:
    found, folder = report
    assert set(found.metrics) == set(Music.metrics)
    assert next(iter(found.metrics)) == "nats_per_frame"
    assert set(found.baseline) == set(Music.metrics)
    assert set(found.reference) == set(Music.metrics) - {"nats_per_frame", "perplexity"}
    for column in (found.metrics, found.baseline, found.reference):
        for name, metric in column.items():
            assert metric.low <= metric.value <= metric.high, name
            assert math.isfinite(metric.high), name
    assert found.protocol["frames"] == dataset.details["frames"]["test"]
    assert found.protocol["tokens"] == 4 * found.protocol["frames"], "ends of pieces are no frames"
    ratio = math.log(found.metrics["perplexity"].value) * 4
    assert found.metrics["nats_per_frame"].value == pytest.approx(ratio)
    even = 4 * math.log(dataset.shape.vocabulary)
    assert found.metrics["nats_per_frame"].value < 0.7 * even
    assert found.reference["scale_consistency"].value == 1, "all of a piece is in one key"
    assert found.reference["pitch_class_overlap"].value > 0.7 > found.metrics["pitch_class_overlap"].value
    assert read_report(folder / "report.json") == found
    assert sentence(found).startswith(
        f"{found.protocol['tokens']:,} tokens of the test split of made; 100 samples"
    )
    shown = Image.open(folder / "samples.png")
    assert shown.height > shown.width / 10
    assert len(np.unique(np.asarray(shown).reshape(-1, 3), axis=0)) > 5
    assert (folder / "nearest.png").is_file()
    levels, rate = soundfile.read(folder / "samples.wav")
    assert len(levels) > 3 * rate
    assert np.abs(levels).max() > 0.5
    assert read_midi((folder / "samples.mid").read_bytes(), 1).notes


def test_the_likelihood_is_that_of_the_tokens(dataset: Dataset, tmp_path: Path) -> None:
    """A model that finds all tokens equally likely has the nats of its vocabulary for each of a frame."""
    measurement = MusicMeasurement(dataset, tmp_path, Extent(100), silent)
    vocabulary = dataset.shape.vocabulary

    def even(batch: object) -> torch.Tensor:
        tokens = batch.length - batch.given  # type: ignore[attr-defined]
        return tokens * math.log(vocabulary)

    def sample(requests: Requests, width: int) -> torch.Tensor:
        return torch.full((len(requests), 8), 5)

    found = measurement.measure(Subject(sample, even), silent).metrics
    assert found["nats_per_frame"].value == pytest.approx(4 * math.log(vocabulary))
    assert found["perplexity"].value == pytest.approx(vocabulary)


def test_events_are_measured_by_their_steps(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for number in range(40):
        (tmp_path / "raw" / f"{number}.mid").write_bytes(write_midi(piece(number)))
    (tmp_path / "params.yaml").write_text(
        "datasets:\n  made:\n    source: midi\n    path: raw\n    steps: 2\n    context: 100\n"
    )
    dataset = prepare(open_project(tmp_path), "made", tmp_path / "made")
    measurement = MusicMeasurement(dataset, tmp_path, Extent(100), silent)
    pieces_held_out = len(measurement.held_out)
    assert measurement.frames == 64 * pieces_held_out
    assert dataset.rows("test") > pieces_held_out, "each is longer than a row"
    tokens = dataset.details["tokens"]["test"] - pieces_held_out

    def sample(requests: Requests, width: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(requests.seed[0]))
        return torch.randint(1, dataset.shape.vocabulary, (len(requests), 60), generator=generator)

    found = measurement.measure(Subject(sample, lambda batch: batch.length - batch.given), silent)
    assert found.metrics["nats_per_frame"].value == pytest.approx(tokens / measurement.frames)
    assert found.metrics["perplexity"].value == pytest.approx(math.e)
    assert 1 < found.baseline["nats_per_frame"].value < tokens / measurement.frames * 5
    assert set(found.reference) == set(Music.metrics) - {"nats_per_frame", "perplexity"}


def test_real_pieces_as_samples_are_like_real_ones(dataset: Dataset, tmp_path: Path) -> None:
    """What draws training pieces has their histograms, and is found out as a copy."""
    measurement = MusicMeasurement(dataset, tmp_path, Extent(100), silent)
    train = dataset.whole("train")

    def sample(requests: Requests, width: int) -> torch.Tensor:
        rows = train.data[requests.seed % len(train)][:, 1:]
        return torch.where(rows == END, NOTHING, rows)

    found = measurement.measure(Subject(sample, lambda _: None), silent)
    assert "nats_per_frame" not in found.metrics
    assert found.metrics["copied"].value == 1
    assert found.reference["copied"].value == 0
    assert found.metrics["longest_overlap"].value > 20 > found.reference["longest_overlap"].value
    for feature in FEATURES:
        assert found.metrics[f"{feature}_overlap"].value > 0.75 > found.baseline[f"{feature}_overlap"].value
        assert found.metrics[f"{feature}_divergence"].value < found.baseline[f"{feature}_divergence"].value


def solo(*pitches: int | None, bar: int = 4) -> Score:
    return of_frames([[pitch] for pitch in pitches], [Voice("solo")], 1, bar)


def test_features_are_what_they_are_called() -> None:
    score = solo(60, 60, 64, 67, 60, 72, None, None)
    found = {name: rows[0] for name, rows in features([score]).items()}
    assert found["pitch_class"][[0, 4, 7]].tolist() == pytest.approx([3 / 5, 1 / 5, 1 / 5])
    intervals = {place - 12: share for place, share in enumerate(found["interval"]) if share}
    assert intervals == {4: 0.25, 3: 0.25, -7: 0.25, 12: 0.25}
    assert found["duration"][[8, 10]].tolist() == pytest.approx([0.8, 0.2]), "quarters, and a half"
    assert found["density"].tolist() == [5 / 8]
    chords = Score((Note(0, 0, 60, 1), Note(0, 0, 67, 1), Note(1, 0, 62, 1)), (Voice("piano"),), 1, 2, 4)
    assert [[note.pitch for note in line] for line in lines(chords)] == [[67, 62]], "the highest of a chord"


def test_form_is_counted_by_bars() -> None:
    assert scale_consistency(solo(60, 62, 64, 65, 67, 69, 71, 72)) == 1
    assert scale_consistency(solo(60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71)) == pytest.approx(7 / 12)
    assert empty_bars(solo(60, 62, None, None, None, None, 60, 62, bar=2)) == 0.5
    assert repeated_bars(solo(60, 62, 60, 62, 60, 62, 64, 65, bar=2)) == pytest.approx(2 / 3)
    assert repeated_bars(solo(60, 62, 64, 65, bar=2)) == 0 == repeated_bars(solo(60, 62, bar=2))
    nothing = Score((), (Voice("solo"),), 1, 0, 4)
    assert (empty_bars(nothing), repeated_bars(nothing), scale_consistency(nothing)) == (1, 0, 0)
    means = form([solo(60, 62, bar=2), solo(60, 62, None, None, bar=2)])
    assert means["empty_bars"][0] == 0.25


def test_densities_and_distances() -> None:
    rows = np.array([[0.0, 0.0], [3.0, 4.0]])
    assert distances(rows, rows).tolist() == [[0, 5], [5, 0]]
    edges = np.linspace(-1, 3, 201)
    narrow, wide = (density(np.random.default_rng(0).normal(1, s, 5000), edges) for s in (0.1, 0.4))
    centres = (edges[1:] + edges[:-1]) / 2
    for found, spread in ((narrow, 0.1), (wide, 0.4)):
        assert found.sum() == pytest.approx(1)
        assert (found * centres).sum() == pytest.approx(1, abs=0.02)
        assert math.sqrt((found * (centres - 1) ** 2).sum()) == pytest.approx(spread, rel=0.1)
    real = compared(list(pieces(30)))
    same = likeness(real, [piece(number) for number in range(30, 60)], 0)
    other = likeness(real, [piece(number).moved(0).cut(0, 8) for number in range(30, 60)], 0)
    assert all(same[f"{name}_overlap"][0] > 0.8 for name in FEATURES)
    assert other["pitch_class_divergence"][0] > 2 * same["pitch_class_divergence"][0]


def test_copies_are_found_in_every_key() -> None:
    alphabet = Alphabet()
    known = [alphabet.line(piece(number)) for number in range(5)]
    asked = [piece(3).moved(4), piece(2).cut(8, 20), piece(77)]
    texts = [alphabet.line(score) for score in asked]
    overlaps = longest_overlaps([line.text for line in known], [line.text for line in texts])
    assert [overlap.piece for overlap in overlaps[:2]] == [3, 2]
    assert overlaps[0].length == len(texts[0].text)
    assert overlaps[0].start == overlaps[0].place == 0
    assert known[2].starts[overlaps[1].place] == 8 + texts[1].starts[overlaps[1].start]
    found = copies(texts, overlaps, 0)
    assert found["copied"][0] == pytest.approx(1 / 3) or found["copied"][0] == pytest.approx(2 / 3)
    assert overlaps[2].length < 8


def test_pieces_one_after_another() -> None:
    joined = one_after_another([solo(60, 62), solo(64)])
    assert [(note.start, note.pitch) for note in joined.notes] == [(0, 60), (1, 62), (8, 64)]
    assert joined.length == 12


def test_what_makes_no_sense_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="draw at least 100"):
        MusicMeasurement(dataset, tmp_path, Extent(5), silent)
    few = dataclasses.replace(
        dataset, files={name: {**facts, "rows": 1} for name, facts in dataset.files.items()}
    )
    with pytest.raises(UserError, match="has 1 rows and evaluation needs at least 2"):
        MusicMeasurement(few, tmp_path, Extent(), silent)


def test_samples_are_heard(report: tuple[Report, Path]) -> None:
    _, folder = report
    info = soundfile.info(io.BytesIO((folder / "samples.wav").read_bytes()))
    assert (info.channels, info.subtype) == (1, "PCM_16")
