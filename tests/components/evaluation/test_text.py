from __future__ import annotations

import math
import random

import numpy as np
import pytest
import sacrebleu
import torch

from components.evaluation import ngram
from components.evaluation.likelihood import likelihood
from components.evaluation.overlap import Overlap, longest_overlaps, suffixes
from components.evaluation.rouge import among, lead, rouge
from components.evaluation.show_text import nearest_text
from components.evaluation.text import (
    Sampled,
    copied,
    distinct,
    keeps_form,
    median,
    parses,
    repetition,
    self_bleu,
    split,
    unit_of,
)
from components.families.family import END, NOTHING


def words(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def test_bits_and_perplexity_are_ratios_of_sums() -> None:
    nats, tokens, characters = torch.tensor([2.0, 4.0]), torch.tensor([2, 2]), torch.tensor([3.0, 5.0])
    found = likelihood(nats, tokens, characters, 0)
    assert found["bits_per_character"].value == pytest.approx(6 / 8 / math.log(2))
    assert found["perplexity"].value == pytest.approx(math.exp(6 / 4))
    assert found["perplexity"].low < math.exp(6 / 4) < found["perplexity"].high
    assert [metric.better for metric in found.values()] == ["lower", "lower"]


def test_the_interval_of_bits_holds_the_true_rate_about_as_often_as_it_says() -> None:
    generator, held = torch.Generator().manual_seed(0), 0
    for trial in range(40):
        characters = torch.randint(1, 20, (60,), generator=generator).double()
        level = 1 + 0.5 * torch.randn(60, generator=generator).double()
        found = likelihood(characters * level, characters, characters, trial)["bits_per_character"]
        held += found.low <= 1 / math.log(2) <= found.high
    assert 33 <= held <= 40


def test_distinct_counts_different_ngrams_over_a_fixed_number() -> None:
    units = words("a b a b", "a b c")
    assert distinct(units, 1, 100, 0)[0] == pytest.approx(3 / 7)
    assert distinct(units, 2, 100, 0)[0] == pytest.approx(3 / 5)  # ab ba ab | ab bc
    assert distinct(units, 2, 3, 0)[0] == pytest.approx(2 / 3)
    assert distinct(units, 5, 100, 0) is None
    value, low, high = distinct(units, 1, 100, 0)
    assert 0 <= low <= value <= high <= 1


def test_repetition_is_the_share_of_four_grams_that_were_there_before() -> None:
    value, _, _ = repetition(words("a b c d a b c d", "a b c d e", "too short"))
    assert value == pytest.approx((1 / 5 + 0) / 2)
    assert repetition(words("a b", "c")) is None


def test_self_bleu_is_sacrebleus_against_all_others() -> None:
    same = self_bleu(words("a b c d e", "a b c d e", "a b c d e"))
    assert same[0] == pytest.approx(1.0)
    units = words("a b c d e", "a b c d f", "v w x y z")
    lines = [" ".join(row) for row in units]
    scores = [
        sacrebleu.sentence_bleu(line, lines[:at] + lines[at + 1 :], tokenize="none").score / 100
        for at, line in enumerate(lines)
    ]
    assert self_bleu(units)[0] == pytest.approx(sum(scores) / 3)
    assert self_bleu(words("alone")) is None


def test_words_or_characters_are_chosen_by_the_text() -> None:
    assert unit_of(["the quick brown fox jumps over the lazy dog"] * 3) == "words"
    assert unit_of(["床前明月光，疑是地上霜。"] * 3) == "characters"
    assert unit_of(["Anna", "Bo"]) == "characters"
    assert split("a_b(c) d", "words") == ["a_b", "(", "c", ")", "d"]
    assert split("明月 光", "characters") == ["明", "月", "光"]


def test_a_median_has_the_range_of_its_resamples() -> None:
    value, low, high = median([1, 2, 3, 4, 100], 0)
    assert value == 3
    assert 1 <= low <= 3 <= high <= 100


def test_suffixes_are_sorted_as_python_sorts_them() -> None:
    generator = random.Random(0)
    for _ in range(100):
        values = np.array([generator.randint(0, 3) for _ in range(generator.randint(1, 60))])
        wanted = sorted(range(len(values)), key=lambda place: values[place:].tolist())
        assert suffixes(values).tolist() == wanted
    long = np.tile(np.array([5, 900, 7]), 50)
    assert suffixes(long).tolist() == sorted(range(150), key=lambda place: long[place:].tolist())


def test_the_longest_overlap_is_that_of_brute_force_and_stands_where_it_says() -> None:
    generator = random.Random(1)
    for _ in range(60):
        train = ["".join(generator.choices("ab床", k=generator.randint(0, 15))) for _ in range(3)]
        texts = ["".join(generator.choices("ab床c", k=generator.randint(0, 9))) for _ in range(3)]
        for text, found in zip(texts, longest_overlaps(train, texts), strict=True):
            parts = (text[i:j] for i in range(len(text) + 1) for j in range(i, len(text) + 1))
            assert found.length == max(len(part) for part in parts if any(part in one for one in train))
            there = train[found.piece][found.place : found.place + found.length]
            assert there == text[found.start : found.start + found.length]


def test_no_overlap_crosses_the_border_of_two_documents() -> None:
    (found,) = longest_overlaps(["abc", "def"], ["cd"])
    assert found.length == 1


def test_a_copy_is_a_whole_document_or_a_cut_text_inside_one() -> None:
    documents = frozenset({"Anna", "Joanna"})
    whole, none = Overlap(4, 0, 0, 0), Overlap(0, 0, 0, 0)
    assert copied(Sampled("Anna"), whole, documents)
    assert not copied(Sampled("oann"), whole, documents)
    assert copied(Sampled("oann", cut=True), whole, documents)
    assert not copied(Sampled("", cut=True), none, documents)


def test_a_function_parses_if_python_reads_a_statement_and_nothing_was_cut() -> None:
    good, bad = "def f(a):\n    return '\\d' + a\n", "def f(:\n    pass\n"
    found = parses([Sampled(good), Sampled(bad), Sampled(good, cut=True), Sampled(""), Sampled("# only\n")])
    assert found[0] == pytest.approx(1 / 5)
    assert found[1] < 1 / 5 < found[2]
    assert parses([Sampled("x = " + "(" * 1000), Sampled("\x00"), Sampled("x = 1")])[0] == pytest.approx(
        1 / 3
    )


def test_a_text_keeps_the_form_if_all_of_it_matches() -> None:
    pattern = r"(?:.{5}，.{5}。){2}"
    good = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
    found = keeps_form(
        [Sampled(good), Sampled(good + "多"), Sampled(good, cut=True), Sampled(good[:12])], pattern
    )
    assert found[0] == pytest.approx(1 / 4)


def test_rouge_takes_the_best_of_several_references() -> None:
    found = rouge(["the cat sat", "dogs bark"], [["a bird flew", "the cat ran"], ["dogs bark"]], "words")
    # the first: 2 of 3 words, 1 of 2 pairs, the subsequence “the cat”
    assert found["rouge1"].value == pytest.approx((2 / 3 + 1) / 2)
    assert found["rouge2"].value == pytest.approx((1 / 2 + 1) / 2)
    assert found["rougeL"].value == pytest.approx((2 / 3 + 1) / 2)
    assert {metric.better for metric in found.values()} == {"higher"}


def test_rouge_of_words_of_any_script() -> None:
    texts = ["Кошка сидит дома", "γάτα στο σπίτι", "für den Fußball"]
    other = ["Собака сидит дома", "σκύλος στο σπίτι", "gegen den Fußball"]
    found = rouge(texts, [[text] for text in other], "words")
    assert found["rouge1"].value == pytest.approx(2 / 3)
    assert found["rouge2"].value == pytest.approx(1 / 2)
    hindi = rouge(["कि राम", "का राम"], [["का राम"], ["का राम"]], "words")
    assert hindi["rouge1"].value == pytest.approx((1 / 2 + 1) / 2), "marks are parts of letters"


def test_rouge_of_english_is_the_packages_own() -> None:
    from rouge_score.rouge_scorer import RougeScorer

    answers = ["The cats were running, 3 times!", "well-known tests of the parsers"]
    wanted = ["A cat runs 3 times.", "We test well known parser"]
    scorer = RougeScorer(["rouge1"], use_stemmer=True)
    expected = [
        scorer.score(one, other)["rouge1"].fmeasure for one, other in zip(wanted, answers, strict=True)
    ]
    assert rouge(answers, [[one] for one in wanted], "words")["rouge1"].value == pytest.approx(
        sum(expected) / 2
    )


def test_rouge_of_chinese_counts_characters() -> None:
    found = rouge(["明月光", "霜"], [["明月夜"], ["霜"]], "characters")
    assert found["rouge1"].value == pytest.approx((2 / 3 + 1) / 2)


def test_references_are_measured_against_each_other_where_there_are_several() -> None:
    found = among([["a b", "a c"], ["x"], ["d e", "d e", "f"]], "words")
    assert found["rouge1"].value == pytest.approx((1 / 2 + 1) / 2)
    assert among([["a"], ["b"]], "words") == {}


def test_the_lead_is_the_first_sentence() -> None:
    assert lead("  We show it. Then more.") == "We show it."
    assert lead("One line\nanother") == "One line"
    assert lead("床前。明月。") == "床前。"
    assert lead("") == ""


def rows(*texts: list[int], width: int = 8) -> np.ndarray:
    return np.array([[END, *text, END, *[NOTHING] * (width - len(text) - 2)] for text in texts])


@pytest.fixture(scope="module")
def trivial() -> ngram.Ngrams:
    return ngram.fit(rows([1, 2, 1], [1, 2, 3], [2, 2]), vocabulary=5)


def test_the_probabilities_of_ngrams_sum_to_one(trivial: ngram.Ngrams) -> None:
    for first in range(5):
        for second in range(5):
            history = np.repeat([[first, second]], 5, 0)
            found = trivial.probabilities(history, np.arange(5))
            assert found.sum() == pytest.approx(1.0)
            assert (found > 0).all()


def test_ngrams_are_smoothed_as_witten_and_bell_do(trivial: ngram.Ngrams) -> None:
    # 11 tokens: 1 ×3, 2 ×4, 3 ×1, END ×3; behind 1 come 2 2 END; behind END 1 come 2 2
    empty = (4 + 4 / 5) / (11 + 4)
    one = (2 + 2 * empty) / (3 + 2)
    two = (2 + 1 * one) / (2 + 1)
    assert trivial.probabilities(np.array([[END, 1]]), np.array([2]))[0] == pytest.approx(two)
    assert trivial.probabilities(np.array([[3, 4]]), np.array([2]))[0] == pytest.approx(empty)


def test_ngrams_count_from_given_on_and_see_no_other_document(trivial: ngram.Ngrams) -> None:
    packed = np.array([[END, 3, END, 1, 2, END, NOTHING, NOTHING]])
    nats, count = trivial.nats(packed, np.array([3]))
    histories = np.array([[END, END], [END, 1], [1, 2]])
    wanted = -np.log(trivial.probabilities(histories, np.array([1, 2, END]))).sum()
    assert (nats[0], count[0]) == (pytest.approx(wanted), 3)


def test_samples_of_ngrams_follow_their_probabilities(trivial: ngram.Ngrams) -> None:
    drawn = trivial.sample(4000, 3, 0)
    assert drawn.shape == (4000, 3)
    first = np.bincount(np.where(drawn[:, 0] == NOTHING, END, drawn[:, 0]), minlength=5) / 4000
    wanted = trivial.probabilities(np.zeros((5, 2), dtype=np.int64), np.arange(5))
    assert np.abs(first - wanted).max() < 0.03
    behind = drawn[drawn[:, 0] == 1, 1]
    found = np.bincount(np.where(behind == NOTHING, END, behind), minlength=5) / len(behind)
    wanted = trivial.probabilities(np.repeat([[END, 1]], 5, 0), np.arange(5))
    assert np.abs(found - wanted).max() < 0.05
    assert np.array_equal(drawn, trivial.sample(4000, 3, 0))


def test_the_nearest_are_shown_with_what_they_repeat_and_where() -> None:
    train = ["nothing here", "once upon a time there was"]
    texts = [Sampled("zz"), Sampled("a time there", cut=True)]
    shown = nearest_text(texts, longest_overlaps(train, [one.text for one in texts]), train).decode()
    first, second = shown.split("── 1 ──")
    assert "sample 1, 12 characters:\na time there […]" in first
    assert "once upon ⟦a time there⟧ was" in first
    assert "has 12 characters and stands in piece 1 of the training text, from character 10 on" in first
    assert "sample 0" in second
