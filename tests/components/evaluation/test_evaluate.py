from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import load_file, save_file

from components.artifact import About, load, save
from components.data.dataset import Dataset
from components.errors import FailedError, UserError
from components.evaluation.evaluate import evaluate, room
from components.evaluation.judge import Features
from components.evaluation.report import Report, comparable, read_report, table
from components.families.family import Shape
from components.families.vae import VAE
from components.terms import FilterRow, terms_of

NATS = ["negative_elbo_nats", "importance_weighted_nats"]
JUDGED = ["frechet_distance", "precision", "recall", "density", "coverage"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated") / "evaluation"


@pytest.fixture(scope="module")
def report(artifact: Path, digits: Dataset, judge: Features, cache: Path, folder: Path) -> Report:
    return evaluate(artifact, digits, folder, cache)


def test_the_report_says_what_was_measured_and_how(
    report: Report, artifact: Path, digits: Dataset, judge: Features
) -> None:
    assert list(report.metrics) == [f"judge_{name}" for name in JUDGED] + NATS
    assert list(report.baseline) == list(report.reference) == [f"judge_{name}" for name in JUDGED]
    assert (report.artifact, report.family) == (load(artifact).digest, "vae")
    assert (report.dataset, report.revision) == ("digits", digits.revision)
    assert report.protocol["samples"] == 1000
    assert report.protocol["held_out"] == digits.rows("test")
    assert report.protocol["judge_accuracy"] == judge.accuracy
    assert judge.digest.startswith(report.protocol["features_digest"])
    every = [*report.metrics.values(), *report.baseline.values(), *report.reference.values()]
    assert all(metric.low <= metric.value <= metric.high for metric in every)


def test_real_rows_are_better_than_the_model_and_the_trivial_model_is_clearly_worse(report: Report) -> None:
    distance = "judge_frechet_distance"
    assert report.reference[distance].high < report.metrics[distance].value
    assert report.baseline[distance].low > 2 * report.reference[distance].high
    assert report.metrics[distance].high < report.baseline[distance].low
    for name in ("judge_recall", "judge_density", "judge_coverage"):
        assert report.baseline[name].high < report.reference[name].low
    assert report.reference["judge_coverage"].value > 0.9


def test_more_training_gives_better_numbers(
    report: Report,
    train: Callable[[Path, int], Path],
    digits: Dataset,
    cache: Path,
    tmp_path: Path,
) -> None:
    early = evaluate(train(tmp_path / "early", 20), digits, tmp_path / "evaluation", cache)
    for name in ("judge_frechet_distance", "negative_elbo_nats"):
        assert report.metrics[name].high < early.metrics[name].low
    assert comparable(early, report)


def test_a_report_reads_back_as_it_was(report: Report, folder: Path) -> None:
    assert read_report(folder / "report.json") == report
    assert comparable(read_report(folder / "report.json"), report)
    assert not comparable(report, dataclasses.replace(report, revision="0" * 64))
    assert not comparable(report, dataclasses.replace(report, protocol={**report.protocol, "samples": 2000}))


def test_the_second_call_changes_nothing_and_says_nothing(
    report: Report, artifact: Path, digits: Dataset, cache: Path, folder: Path
) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}

    before, said = state(), list[str]()
    assert evaluate(artifact, digits, folder, cache, progress=said.append) == report
    assert said == []
    assert state() == before


def test_data_that_are_prepared_anew_meanwhile_give_no_report(
    artifact: Path, digits: Dataset, judge: Features, cache: Path, tmp_path: Path
) -> None:
    copy = dataclasses.replace(digits, folder=tmp_path / "digits")
    shutil.copytree(digits.folder, copy.folder)
    manifest = copy.folder / "dataset.json"

    def anew(_: str) -> None:
        manifest.write_text(manifest.read_text().replace(digits.revision, "0" * 64))

    with pytest.raises(FailedError, match="“digits” was prepared anew while it was read; repeat"):
        evaluate(artifact, copy, tmp_path / "evaluation", cache, progress=anew)
    assert not (tmp_path / "evaluation").exists()

    def gone(_: str) -> None:
        shutil.rmtree(copy.folder, ignore_errors=True)

    shutil.rmtree(copy.folder)
    shutil.copytree(digits.folder, copy.folder)
    with pytest.raises(FailedError, match="“digits” was prepared anew while it was read; repeat"):
        evaluate(artifact, copy, tmp_path / "evaluation", tmp_path / "cache", progress=gone)


def test_the_numbers_do_not_depend_on_threads_or_on_the_random_state(
    report: Report, artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    torch.manual_seed(123)
    torch.set_num_threads(2)
    try:
        again = evaluate(artifact, digits, tmp_path, cache)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.random.set_rng_state(state)
    assert dataclasses.replace(again, seconds=report.seconds) == report


def test_another_number_of_samples_is_another_evaluation(
    report: Report, artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    small = evaluate(artifact, digits, tmp_path, cache, samples=150)
    assert (small.protocol["samples"], small.protocol["held_out"]) == (150, 150)
    assert not comparable(small, report)
    assert read_report(tmp_path / "report.json") == small


@pytest.mark.usefixtures("judge")
def test_a_damaged_report_counts_as_none(
    artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json is damaged; remove it and evaluate again\.$"):
        read_report(tmp_path / "report.json")
    found = evaluate(artifact, digits, tmp_path, cache, samples=100)
    assert read_report(tmp_path / "report.json") == found


def test_without_classes_the_metrics_are_named_after_principal_components(
    artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    plain = dataclasses.replace(digits, classes=("digit",))
    found = evaluate(artifact, plain, tmp_path, cache, samples=200)
    assert list(found.metrics) == [f"pca_{name}" for name in JUDGED] + NATS
    assert (found.protocol["features"], found.protocol["judge_accuracy"]) == ("pca", None)
    assert found.baseline["pca_coverage"].high < found.reference["pca_coverage"].low


def test_the_pictures_are_there_and_are_pictures(report: Report, folder: Path) -> None:
    inside = ("interpolation.png", "variations.png", "traversal.png")
    assert report.pictures == ("samples.png", "nearest.png", *inside)
    assert {path.name for path in folder.iterdir()} == {"report.json", *report.pictures}
    sizes = [Pillow.open(io.BytesIO((folder / name).read_bytes())).size for name in report.pictures[:2]]
    assert sizes == [(2 + 8 * 58, 2 + 8 * 58), (2 + 7 * 58, 2 + 8 * 58)]


def test_the_table_has_model_baseline_and_real_side_by_side(report: Report) -> None:
    lines = table(report)
    assert [line["metric"] for line in lines] == [*report.metrics, "active_latents"]
    distance = report.reference["judge_frechet_distance"]
    assert lines[0]["real"] == f"{distance.value:.3g} [{distance.low:.3g}, {distance.high:.3g}]"
    assert (lines[-2]["baseline"], lines[-2]["real"], lines[-2]["better"]) == ("–", "–", "lower")
    assert lines[-1]["better"] == "–"


def test_progress_is_said_in_short_sentences(
    artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    evaluate(artifact, digits, tmp_path, cache, samples=100, progress=said.append)
    assert said[0] == "drawing samples … 0%"
    assert said[-1] == "looking for the nearest training rows"
    assert all(len(sentence) < 60 for sentence in said)


def test_an_altered_artifact_is_refused(artifact: Path, digits: Dataset, cache: Path, tmp_path: Path) -> None:
    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    weights = load_file(copy / "networks.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first] + 1
    save_file(weights, copy / "networks.safetensors")
    with pytest.raises(UserError, match="was altered"):
        evaluate(copy, digits, tmp_path / "evaluation", cache)
    assert not (tmp_path / "evaluation").exists()


def test_a_model_of_another_shape_is_refused(
    artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    about, shape = load(artifact).about, Shape(data=(3, 8, 8))
    save_new(tmp_path / "artifact", VAE(latent=2, width=16), shape, about)
    with pytest.raises(UserError, match="makes rows of 3×8×8 and the dataset “digits” has 1×8×8"):
        evaluate(tmp_path / "artifact", digits, tmp_path / "evaluation", cache)


def test_values_that_are_not_finite_are_named(
    artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    about = load(artifact).about
    save_new(tmp_path / "artifact", VAE(latent=2, width=16), digits.shape, about, fill=float("nan"))
    with pytest.raises(FailedError, match="The model's samples are not all finite"):
        evaluate(tmp_path / "artifact", digits, tmp_path / "evaluation", cache, samples=100)
    assert not (tmp_path / "evaluation").exists()


def save_new(folder: Path, family: VAE, shape: Shape, about: About, fill: float | None = None) -> None:
    networks = family.networks(shape)
    for parameter in networks["autoencoder"].parameters() if fill is not None else ():
        torch.nn.init.constant_(parameter, fill)
    save(folder, family, networks, shape, about)


def test_too_few_samples_or_rows_are_refused(
    artifact: Path, digits: Dataset, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="on 10 samples says nothing; draw at least 100"):
        evaluate(artifact, digits, tmp_path, cache, samples=10)
    files = {name: {**facts, "rows": 5} for name, facts in digits.files.items()}
    with pytest.raises(UserError, match="has 5 rows and evaluation needs more than 5"):
        evaluate(artifact, dataclasses.replace(digits, files=files), tmp_path, cache)


def test_the_share_that_a_filter_withholds_is_a_metric(
    artifact: Path, digits: Dataset, cache: Path, report: Report, tmp_path: Path
) -> None:
    code = tmp_path / "own.py"
    code.write_text(
        "def refuse(content, media_type):\n    return 'even' if sum(content) % 2 == 0 else None\n"
    )
    terms = terms_of(tmp_path, "digits", "hash", FilterRow(code=code))
    found = evaluate(artifact, digits, tmp_path / "evaluation", cache, samples=100, terms=terms)
    metric = found.metrics["withheld"]
    assert 0.2 < metric.low < metric.value < metric.high < 0.8
    assert metric.better == "lower"
    assert found.protocol["filter"] == terms.filter_digest
    assert "withheld" not in report.metrics
    assert "filter" not in report.protocol


def test_a_full_gpu_is_one_sentence() -> None:
    with pytest.raises(FailedError, match="too little free memory for the evaluation"), room():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
