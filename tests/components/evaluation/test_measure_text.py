"""Text as a whole: a subject that is an n-gram model, on tiny datasets written by hand."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.errors import FailedError, UserError
from components.evaluation import corpus, ngram
from components.evaluation.measure_text import TextMeasurement
from components.evaluation.measurement import Extent, Measured, Subject
from components.families.family import END, NOTHING, Batch, Requests
from tests.components.evaluation.corpora import prepared

VERSES = ["the cat sat on the mat and then it ran", "a dog sat on the log and there it lay down"]
LONG = " ".join(f"line {place} says that {place * place} is a square of {place}." for place in range(60))


def silent(sentence: str) -> None:
    pass


def subject_of(dataset: Dataset, order: ngram.Ngrams | None = None) -> Subject:
    """A subject that knows the training text's trigrams and draws by its own means."""
    columns = corpus.columns_of(dataset, "train")
    model = order or ngram.fit(dataset.tensors.batch(columns).data.numpy(), dataset.shape.vocabulary)

    def sample(requests: Requests, width: int) -> Tensor:
        assert len(requests) <= width
        return torch.from_numpy(model.sample(len(requests), dataset.shape.data[0], int(requests.seed[0])))

    def nats(batch: Batch) -> Tensor:
        assert batch.given is not None
        found, _ = model.nats(batch.data.numpy(), batch.given.numpy())
        return torch.from_numpy(found)

    return Subject(sample, nats)


def measured(dataset: Dataset, subject: Subject | None = None) -> tuple[TextMeasurement, Measured]:
    measurement = TextMeasurement(dataset, Path(), Extent(100), silent)
    return measurement, measurement.measure(subject or subject_of(dataset), silent)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    splits = {"train": [LONG, VERSES[0]], "val": [VERSES[1]], "test": [LONG[100:700], "a cat lay."]}
    return prepared(tmp_path_factory.mktemp("long") / "long", splits)


def test_windows_in_any_order_are_joined_to_the_documents_that_they_are_of(long: Dataset) -> None:
    for split, wanted in (("train", {LONG, VERSES[0]}), ("test", {LONG[100:700], "a cat lay."})):
        found = corpus.documents(corpus.columns_of(long, split), split == "train")
        texts = corpus.read(corpus.text_of(long).tokenizer, [one.tokens for one in found])
        assert set(texts) == wanted
        assert all(one.whole for one in found)


def test_windows_without_a_partner_stay_alone() -> None:
    columns = {
        "tokens": torch.tensor([[5, 6, 7, 8], [END, 1, END, NOTHING], [7, 8, 9, END]], dtype=torch.int32),
        "length": torch.tensor([4, 3, 4]),
        "fresh": torch.tensor([1, 2, 1]),
        "width": torch.tensor([4, 4, 4]),
    }
    found = corpus.documents(columns, train=False)
    assert [(one.tokens.tolist(), one.whole) for one in found] == [
        ([5, 6, 7, 8], False),
        ([1], True),
        ([7, 8, 9], False),
    ]


def test_a_circle_of_windows_ends() -> None:
    rows = torch.tensor([[1, 2, 1, 2, 1]] * 3, dtype=torch.int32)
    columns = {"tokens": rows, "length": torch.tensor([5] * 3), "width": torch.tensor([3] * 3)}
    columns["fresh"] = columns["length"] - 1
    assert sum(len(one.tokens) for one in corpus.documents(columns, train=True)) >= 5


def test_each_held_out_token_is_counted_once_and_each_character(long: Dataset) -> None:
    measurement = TextMeasurement(long, Path(), Extent(), silent)
    assert measurement.protocol["tokens"] == long.details["tokens"]["test"] == 600 + 10 + 2
    assert measurement.protocol["characters"] == long.details["characters"]["test"] == 610


def test_bits_are_those_of_the_text_as_one_sequence(tmp_path: Path) -> None:
    """A model of one token of history needs no window, so the windows must give what the whole text gives."""
    dataset = prepared(tmp_path / "long", {"train": [LONG], "val": ["a"], "test": [LONG[:500], "line 7"]})
    tokenizer = corpus.text_of(dataset).tokenizer
    train = np.array([[END, *tokenizer.encode(LONG), END]])
    model = ngram.fit(train, tokenizer.vocabulary)
    bigram = ngram.Ngrams(model.vocabulary, model.orders[:2])
    _, found = measured(dataset, subject_of(dataset, bigram))
    nats = 0.0
    for text in (LONG[:500], "line 7"):
        tokens = [END, *tokenizer.encode(text), END]
        pairs = pairwise(tokens)
        nats -= sum(
            math.log(bigram.probabilities(np.array([[END, one]]), np.array([other]))[0])
            for one, other in pairs
        )
    assert found.metrics["bits_per_character"].value == pytest.approx(nats / math.log(2) / 506)
    assert found.metrics["perplexity"].value == pytest.approx(math.exp(nats / 508))


def test_a_text_report_has_model_baseline_and_real(long: Dataset) -> None:
    measurement, found = measured(long)
    common = [
        "distinct_1",
        "distinct_2",
        "distinct_3",
        "repetition",
        "self_bleu",
        "longest_overlap",
        "copied",
    ]
    assert list(found.metrics) == ["bits_per_character", "perplexity", *common]
    assert list(found.baseline) == list(found.metrics)
    assert list(found.reference) == common
    every = [*found.metrics.values(), *found.baseline.values(), *found.reference.values()]
    assert all(metric.low <= metric.value <= metric.high for metric in every)
    # the held-out text was cut out of the training text: its pieces of 31 characters stand there
    assert found.reference["longest_overlap"].value == 31
    assert found.facts["longest_overlap_max"]["model"] <= 31
    assert {"model", "baseline", "real"} == set(found.facts["length"])
    assert measurement.protocol["unit"] == "words"
    assert set(found.files) == {"samples.txt", "nearest.txt"}
    assert found.files["samples.txt"].decode().count("──\n") == 64
    assert found.files["nearest.txt"].decode().count("⟦") == 8


def test_a_model_that_recites_is_found_out(tmp_path: Path) -> None:
    names = ["anna", "bert", "carla", "dora", "emil"]
    dataset = prepared(
        tmp_path / "names", {"train": names, "val": ["fay"], "test": ["enid", "carl", "fred", "gina"]}, 16
    )
    tokenizer = corpus.text_of(dataset).tokenizer

    def recite(requests: Requests, width: int) -> Tensor:
        rows = [tokenizer.encode(names[seed % 5]) for seed in requests.seed.tolist()]
        return torch.tensor([[*row, *[NOTHING] * (16 - len(row))] for row in rows])

    _, found = measured(dataset, Subject(recite, lambda batch: None))
    assert found.metrics["copied"].value == 1.0
    assert found.reference["copied"].value == 0.0
    assert found.baseline["copied"].value < 1.0
    assert found.metrics["self_bleu"].value > 0.9
    assert "bits_per_character" not in found.metrics
    assert found.facts["cut"]["model"] == 0.0


def test_code_and_form_are_measured_where_the_data_has_them(tmp_path: Path) -> None:
    code = [f"def f{place % 3}():\n    return {place // 3}\n" for place in range(9)]
    splits = {"train": code[::2], "val": code[1:2], "test": code[3::2]}
    dataset = prepared(tmp_path / "code", splits, 40, "code", pattern=r"def f\d\(\):\n    return \d\n")
    _, found = measured(dataset)
    for name in ("parses", "keeps_form"):
        assert found.reference[name].value == 1.0
        assert 0 < found.metrics[name].value < 1
    assert list(found.metrics)[:4] == ["bits_per_character", "perplexity", "parses", "keeps_form"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    targets = {
        "train": ["the cat", "a dog", "it ran"],
        "test": ["the cat sat", "a cat sat", "the dog ran", "it sat"],
    }
    sources = {
        "train": ["the cat sat. and ran", "a dog lay. so", "it ran. off"],
        "test": ["the cat sat. it ran", "the cat sat. it ran", "a dog ran off. so it lay", "it sat. it ran."],
    }
    folder = tmp_path_factory.mktemp("pairs") / "pairs"
    return prepared(folder, targets | {"val": ["a"]}, 24, "pairs", sources | {"val": ["a. the cat"]})


def test_answers_to_pairs_are_greedy_and_measured_by_rouge_beside_the_lead(pairs: Dataset) -> None:
    tokenizer = corpus.text_of(pairs).tokenizer
    asked: list[str] = []

    def answer(requests: Requests, width: int) -> Tensor:
        assert requests.source is not None
        assert requests.options["temperature"].tolist() == [0.0] * len(requests)
        sources = [tokenizer.decode([t for t in row if t != NOTHING]) for row in requests.source.tolist()]
        asked.extend(sources)
        rows = [tokenizer.encode(source[:11]) for source in sources]
        return torch.tensor([[*row, *[NOTHING] * (24 - len(row))] for row in rows])

    measurement, found = measured(pairs, Subject(answer, subject_of(pairs).nats))
    assert sorted(asked) == sorted({"the cat sat. it ran", "a dog ran off. so it lay", "it sat. it ran."})
    assert list(found.metrics)[:5] == ["rouge1", "rouge2", "rougeL", "bits_per_character", "perplexity"]
    assert measurement.protocol["samples"] == 3
    # characters: thecatsat. to thecatsat, adogranoff. to thedogran (a, d, o, g, r, n are shared), itsat. to itsat
    leads = (18 / 19 + 12 / 20 + 10 / 11) / 3
    assert found.baseline["rouge1"].value == pytest.approx(leads)
    assert "rouge1" not in found.reference, "only one source has several references"


def test_what_makes_no_sense_is_refused(long: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="on 7 samples says nothing"):
        TextMeasurement(long, Path(), Extent(7), silent)
    small = prepared(tmp_path / "small", {"train": VERSES, "val": ["a"], "test": ["a cat"]}, 64)
    with pytest.raises(UserError, match="has 1 rows and evaluation needs at least 2; add data"):
        TextMeasurement(small, Path(), Extent(), silent)


def test_likelihoods_that_are_not_finite_are_named(long: Dataset) -> None:
    broken = Subject(subject_of(long).sample, lambda batch: torch.full((len(batch),), float("nan")))
    with pytest.raises(FailedError, match="likelihoods of test rows are not all finite"):
        measured(long, broken)


def test_progress_is_said_in_short_sentences(long: Dataset) -> None:
    said: list[str] = []
    TextMeasurement(long, Path(), Extent(100), said.append).measure(subject_of(long), said.append)
    assert said[0] == "drawing samples … 0%"
    assert all(len(sentence) < 60 for sentence in said)
    assert any(re.search(r"likelihood .* 0%", sentence) for sentence in said)
