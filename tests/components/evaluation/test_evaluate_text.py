"""The step evaluate on text, with a real family that was trained for some steps."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from components.artifact import About, load, save
from components.data.dataset import Batches, Dataset, Position
from components.errors import UserError
from components.evaluation.evaluate import evaluate
from components.evaluation.report import Report, read_report, table
from components.families.family import END
from components.families.gpt import GPT
from components.modalities.text import Text
from tests.components.evaluation.corpora import prepared

ANIMALS = ["cat", "dog", "hen", "cow", "owl", "pig"]
PLACES = ["mat", "log", "hay", "sun"]
TEXTS = [f"a {one} in the {place}" for one in ANIMALS for place in PLACES]


def about(dataset: Dataset) -> About:
    origin = {"product": dataset.name, "run": "tiny", "key": "0" * 64, "parameters": {}, "commit": ""}
    facts = {"licence": dataset.licence, "source": dataset.source, "classes": [], "modality": "text"}
    return About(**origin, **facts, dataset=dataset.name, revision=dataset.revision, dirty=False, steps=1)


def trained(dataset: Dataset, folder: Path, steps: int) -> Path:
    family = GPT(layers=2, heads=2, kv_heads=2, width=32, lr=1e-2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = family.networks(dataset.shape)
        optimizers = family.optimizers("decoder", networks["decoder"])
        stream = Batches(dataset, "train", 4, 0).from_position(Position())
        for step, (batch, _) in zip(range(steps), stream, strict=False):
            networks["decoder"].zero_grad()
            family.loss("decoder", networks, batch, step)[0].backward()
            for optimizer in optimizers:
                optimizer.step()
    save(folder, family, networks, dataset.shape, about(dataset), dataset.folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    splits = {
        "train": [text for place, text in enumerate(TEXTS) if place % 3],
        "val": TEXTS[:3],
        "test": TEXTS[::3],
    }
    return prepared(tmp_path_factory.mktemp("text") / "animals", splits, 48)


@pytest.fixture(scope="module")
def artifact(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(dataset, tmp_path_factory.mktemp("gpt") / "artifact", 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated") / "evaluation"


@pytest.fixture(scope="module")
def report(artifact: Path, dataset: Dataset, folder: Path) -> Report:
    return evaluate(artifact, dataset, folder, folder / "cache", samples=100)


def test_bits_a_character_are_those_of_the_familys_forward_on_unpacked_text(
    report: Report, artifact: Path, dataset: Dataset
) -> None:
    model = load(artifact)
    assert isinstance(model.modality, Text)
    assert isinstance(model.family, GPT)
    nats, characters, count = 0.0, 0, 0
    for text in TEXTS[::3]:
        tokens = torch.tensor([[END, *model.modality.tokenizer.encode(text), END]])
        with torch.inference_mode():
            logits = model.networks["decoder"](tokens)
        chances = logits[0, :-1].double().log_softmax(1).gather(1, tokens[0, 1:, None])
        nats, characters, count = nats - float(chances.sum()), characters + len(text), count + len(chances)
    assert any(row.count(END) > 2 for row in dataset.whole("test").data.tolist()), (
        "rows hold several documents"
    )
    assert report.metrics["bits_per_character"].value == pytest.approx(
        nats / math.log(2) / characters, rel=1e-5
    )
    assert report.metrics["perplexity"].value == pytest.approx(math.exp(nats / count), rel=1e-5)


def test_the_report_is_of_text_and_its_pictures_are_texts(report: Report, folder: Path) -> None:
    assert next(iter(report.metrics)) == "bits_per_character"
    assert report.family == "gpt"
    assert report.pictures == ("samples.txt", "nearest.txt")
    assert all((folder / name).read_text(encoding="utf-8") for name in report.pictures)
    assert read_report(folder / "report.json") == report
    lines = {line["metric"]: line for line in table(report)}
    assert lines["length"]["better"] == "–"
    assert lines["bits_per_character"]["real"] == "–"
    assert lines["bits_per_character"]["baseline"] != "–"
    assert lines["length"]["real"] == f"{sum(map(len, TEXTS[::3])) / len(TEXTS[::3]):.3g}"


def test_training_makes_the_numbers_better(
    report: Report, dataset: Dataset, tmp_path: Path, artifact: Path
) -> None:
    early = evaluate(trained(dataset, tmp_path / "early", 1), dataset, tmp_path / "e", tmp_path, samples=100)
    assert report.metrics["bits_per_character"].high < early.metrics["bits_per_character"].low
    assert report.protocol == early.protocol
    assert report.baseline == early.baseline
    assert report.reference == early.reference


def test_the_second_call_changes_nothing_and_a_damaged_report_is_replaced(
    report: Report, artifact: Path, dataset: Dataset, folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "evaluation")
    said: list[str] = []
    assert evaluate(artifact, dataset, copy, tmp_path, samples=100, progress=said.append) == report
    assert said == []
    (copy / "report.json").write_text("{")
    again = evaluate(artifact, dataset, copy, tmp_path, samples=100, progress=said.append)
    assert dataclasses.replace(again, seconds=report.seconds) == report
    assert said


def test_a_report_of_before_there_were_facts_still_reads(
    folder: Path, report: Report, tmp_path: Path
) -> None:
    content = json.loads((folder / "report.json").read_text())
    del content["facts"]
    (tmp_path / "report.json").write_text(json.dumps(content))
    assert read_report(tmp_path / "report.json") == dataclasses.replace(report, facts={})


def test_a_model_of_another_vocabulary_is_refused(artifact: Path, dataset: Dataset, tmp_path: Path) -> None:
    splits = {"train": TEXTS, "val": TEXTS[:1], "test": TEXTS[::3]}
    other = {name: [text.replace("owl", "fox") for text in split] for name, split in splits.items()}
    changed = prepared(tmp_path / "others", other, 48)
    assert changed.shape.vocabulary != dataset.shape.vocabulary
    with pytest.raises(
        UserError, match=r"vocabulary of .* tokens and the dataset “others” one of .* not the same; eval"
    ):
        evaluate(artifact, changed, tmp_path / "evaluation", tmp_path, samples=100)
    swapped = {name: [text.replace("y", "j") for text in split] for name, split in splits.items()}
    same = prepared(tmp_path / "swapped", swapped, 48)
    assert same.shape == dataset.shape
    with pytest.raises(UserError, match="is not the same"):
        evaluate(artifact, same, tmp_path / "evaluation", tmp_path, samples=100)
    assert not (tmp_path / "evaluation").exists()


def test_a_tokenizer_that_does_not_fit_the_weights_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    other = prepared(tmp_path / "other", {"train": ["abc"], "val": ["a"], "test": ["b"]}, 48)
    family = GPT(layers=1, heads=2, kv_heads=2, width=32)
    save(
        tmp_path / "model",
        family,
        family.networks(dataset.shape),
        dataset.shape,
        about(dataset),
        other.folder,
    )
    with pytest.raises(
        UserError, match=r"has 5 tokens and the weights have \d+; fetch or train the model again"
    ):
        load(tmp_path / "model")
