"""Models of sound are measured on spectrograms: a whole evaluation, and what real rows and noise are worth."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import soundfile
import torch
from PIL import Image as Pillow
from torch import Tensor

from components.api import sample
from components.artifact import load, save
from components.data.dataset import Batches, Dataset, Position
from components.errors import UserError
from components.evaluation.evaluate import evaluate
from components.evaluation.judge import features_for
from components.evaluation.measure_audio import AudioMeasurement, Spectrograms
from components.evaluation.measure_image import ImageMeasurement
from components.evaluation.measurement import Extent, Measured, Subject, measurement_of
from components.evaluation.report import Report, read_report, sentence
from components.families.family import Batch, Requests, Task
from components.families.vqvae import VQVAE
from components.modalities.audio import Audio
from components.modalities.waveform import FULL, expand
from tests.components.evaluation.tones import PITCHES, RATE, SAMPLES, tones
from tests.components.families.rows import an_about

ON_FEATURES = ["frechet_distance", "precision", "recall", "density", "coverage"]
TINY = VQVAE(codebook=32, width=16, depth=1, halvings=4, layers=1, prior_width=32)


def silent(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tones(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="module")
def cache(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def trained(folder: Path, dataset: Dataset, task: Task, steps: int = 60) -> Path:
    """A small model of the recordings, trained for some steps in plain torch."""
    shape = dataset.shape.narrowed(task)
    torch.manual_seed(0)
    networks = TINY.networks(shape)
    optimizers = {name: TINY.optimizers(name, network) for name, network in networks.items()}
    stream = Batches(dataset, "train", 32, 0).from_position(Position())
    for step, (batch, _) in zip(range(steps), stream, strict=False):
        for name in networks:
            for optimizer in optimizers[name]:
                optimizer.zero_grad()
            own = batch if shape.classes else dataclasses.replace(batch, label=None)
            TINY.loss(name, networks, own, step)[0].backward()
            for optimizer in optimizers[name]:
                optimizer.step()
    about = dataclasses.replace(
        an_about(shape), classes=dataset.classes if shape.classes else (), modality="audio"
    )
    save(folder, TINY, networks, shape, about, dataset.folder)
    return folder


@pytest.fixture(scope="module")
def artifact(dataset: Dataset, quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("model") / "artifact", dataset, Task.LABEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated") / "evaluation"


@pytest.fixture(scope="module")
def report(artifact: Path, dataset: Dataset, cache: Path, folder: Path) -> Report:
    return evaluate(artifact, dataset, folder, cache, samples=120)


def test_a_model_of_classes_is_measured_on_spectrograms(report: Report, dataset: Dataset) -> None:
    judged = [f"judge_{name}" for name in ON_FEATURES]
    assert list(report.metrics) == [*judged, "class_accuracy", "negative_elbo_nats"]
    assert list(report.baseline) == list(report.reference) == [*judged, "class_accuracy"]
    assert set(report.metrics) <= set(Audio.reported())
    assert set(report.facts) == {"codebook_perplexity", "codebook_used"}
    assert report.protocol["features_of"] == "spectrogram"
    assert report.protocol["asked"] == "labels of held-out rows"
    assert report.protocol["judge_accuracy"] > 0.9
    assert sentence(report).startswith("120 samples, asked for by labels of held-out rows, against 120 rows")
    every = [*report.metrics.values(), *report.baseline.values(), *report.reference.values()]
    assert all(metric.low <= metric.value <= metric.high for metric in every)


def test_real_rows_are_better_than_a_poor_model_and_noise_is_worst(report: Report) -> None:
    name = "judge_frechet_distance"
    assert report.reference[name].high < report.metrics[name].value
    assert report.baseline[name].low > 5 * report.reference[name].high
    assert report.reference["judge_coverage"].value > 0.9
    assert report.baseline["judge_coverage"].value < 0.2
    assert report.reference["class_accuracy"].value == report.protocol["judge_accuracy"]
    assert report.baseline["class_accuracy"].value < 0.5


def test_the_samples_can_be_seen_and_heard(report: Report, folder: Path) -> None:
    assert report.pictures == ("samples.png", "samples.wav", "nearest.png")
    assert {path.name for path in folder.iterdir()} == {"report.json", *report.pictures}
    levels, rate = soundfile.read(folder / "samples.wav", dtype="int16")
    assert rate == RATE
    assert levels.ndim == 1
    assert 9 * 0.1 * RATE <= len(levels) <= 10 * SAMPLES + 9 * 0.1 * RATE
    seen = {name: Pillow.open(io.BytesIO((folder / name).read_bytes())) for name in report.pictures[::2]}
    frames = SAMPLES // (RATE // 80) + 1
    across, down = 3 * frames + 2, 3 * 40 + 2
    assert seen["nearest.png"].size == (2 + 7 * across, 2 + 8 * down)
    assert seen["samples.png"].height == 2 + len(PITCHES) * down


def test_the_numbers_are_the_same_each_time(
    report: Report, artifact: Path, dataset: Dataset, cache: Path, folder: Path, tmp_path: Path
) -> None:
    assert evaluate(artifact, dataset, folder, cache, samples=120) == report
    torch.manual_seed(7)
    again = evaluate(artifact, dataset, tmp_path / "again", cache, samples=120)
    assert dataclasses.replace(again, seconds=report.seconds) == report
    assert read_report(tmp_path / "again" / "report.json") == again
    for name in report.pictures:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_free_model_is_measured_on_principal_components(
    dataset: Dataset, cache: Path, tmp_path: Path
) -> None:
    plain = dataclasses.replace(dataset, classes=())
    model = trained(tmp_path / "artifact", plain, Task.FREE, steps=5)
    found = evaluate(model, plain, tmp_path / "evaluation", cache, samples=100)
    assert list(found.metrics) == [*(f"pca_{name}" for name in ON_FEATURES), "negative_elbo_nats"]
    assert (found.protocol["features"], found.protocol["asked"]) == ("pca", "nothing")
    assert found.baseline["pca_coverage"].high < found.reference["pca_coverage"].low
    assert found.pictures == ("samples.png", "samples.wav", "nearest.png")


class Player:
    """Plays training recordings of the asked class, or of the next one."""

    def __init__(self, dataset: Dataset, beside: int = 0) -> None:
        train = dataset.whole("train")
        assert train.label is not None
        self.data, self.label, self.beside = train.data, train.label, beside

    def sample(self, requests: Requests, width: int) -> Tensor:
        assert requests.label is not None
        wanted = (requests.label + self.beside) % len(PITCHES)
        own = [(self.label == label).nonzero().flatten() for label in range(len(PITCHES))]
        places = [
            int(own[label][seed % len(own[label])])
            for label, seed in zip(wanted.tolist(), requests.seed.tolist(), strict=True)
        ]
        return self.data[places]


def measured(dataset: Dataset, cache: Path, subject: Subject) -> Measured:
    return AudioMeasurement(dataset, cache, Extent(120), silent).measure(subject, silent)


def test_real_recordings_of_the_asked_class_are_as_good_as_real_ones(dataset: Dataset, cache: Path) -> None:
    found = measured(dataset, cache, Subject(Player(dataset).sample, lambda batch: None))
    distance = found.metrics["judge_frechet_distance"]
    assert distance.low < found.reference["judge_frechet_distance"].high
    assert distance.value < found.baseline["judge_frechet_distance"].low / 5
    assert found.metrics["class_accuracy"].value > 0.9
    assert found.metrics["judge_coverage"].value > 0.9


def test_recordings_of_another_class_count_as_wrong(dataset: Dataset, cache: Path) -> None:
    found = measured(dataset, cache, Subject(Player(dataset, beside=1).sample, lambda batch: None))
    assert found.metrics["class_accuracy"].value < 0.1


def test_likelihoods_are_of_eight_bits_and_samples_of_sixteen(dataset: Dataset, cache: Path) -> None:
    seen: list[Tensor] = []

    def nats(batch: Batch) -> Tensor:
        seen.append(batch.data)
        return torch.ones(len(batch))

    measured(dataset, cache, Subject(Player(dataset).sample, nats))
    steps = (torch.cat(seen) + 1) * 127.5
    assert torch.allclose(steps, steps.round(), atol=1e-3)
    rounded = expand(Spectrograms(RATE).rounded(torch.rand(3, SAMPLES) * 2 - 1)) * FULL
    assert torch.allclose(rounded, rounded.round(), atol=1e-2)


def test_the_measurement_and_its_judge_are_those_of_sound(dataset: Dataset, cache: Path) -> None:
    assert measurement_of("audio") is AudioMeasurement
    assert measurement_of("image") is ImageMeasurement
    said: list[str] = []
    features = features_for(dataset, cache, said.append, Spectrograms(RATE))
    assert features.of(dataset.whole("test").data).shape == (120, 64)
    names = {path.name for path in cache.glob("judge*.safetensors")}
    assert names == {f"judge-spectrogram-1-{dataset.revision}.safetensors"}


def test_a_notebook_draws_classes_by_seeds(artifact: Path) -> None:
    model = load(artifact)
    drawn = sample(model, 3, seed=5)
    assert drawn.shape == (3, SAMPLES)
    assert torch.equal(sample(model, 1, seed=6), drawn[1:2])


def test_a_model_of_another_rate_is_refused(
    artifact: Path, dataset: Dataset, cache: Path, tmp_path: Path
) -> None:
    other = tones(tmp_path / "fast", {"train": 8, "val": 4, "test": 8}, rate=11_025)
    with pytest.raises(
        UserError,
        match="makes 8000 samples a second and the dataset “fast” has 11025; evaluate it on its own",
    ):
        evaluate(artifact, other, tmp_path / "evaluation", cache, samples=100)
