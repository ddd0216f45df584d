"""ROUGE of answers to sources (Lin 2004), beside the source's first sentence and other references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from unicodedata import category, normalize

import torch

from components.evaluation.intervals import average
from components.evaluation.report import Metric
from components.evaluation.text import Unit, metrics, split

NAMES = ("rouge1", "rouge2", "rougeL")
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")


class _Units:
    """Splits as `split` does, for the scorer, whose own tokenizer drops all but Latin letters."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit

    def tokenize(self, text: str) -> list[str]:
        return split(text.lower(), self.unit)


class _Words:
    """Words of letters and digits of any script; English ones are stemmed as the scorer's own tokenizer does."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        # letters, the marks upon them, and digits
        inside = (char if category(char)[0] in "LMN" else " " for char in normalize("NFC", text.lower()))
        words = "".join(inside).split()
        return [self.stemmer.stem(word) if word.isascii() and len(word) > 3 else word for word in words]


def rouge(answers: Sequence[str], references: Sequence[Sequence[str]], unit: Unit) -> dict[str, Metric]:
    """The mean F1 of each answer against its references; of several, the best by each measure counts.

    Words are stemmed (Porter), as is usual for summaries; texts that are counted by characters are not.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(NAMES, tokenizer=_Words() if unit == "words" else _Units(unit))
    rows = []
    for answer, wanted in zip(answers, references, strict=True):
        found = [scorer.score(reference, answer) for reference in wanted]
        rows.append([max(float(score[name].fmeasure) for score in found) for name in NAMES])
    if len(rows) < 2:
        return {}
    table = torch.tensor(rows, dtype=torch.float64)
    return metrics({name: average(table[:, place]) for place, name in enumerate(NAMES)})


def among(references: Sequence[Sequence[str]], unit: Unit) -> dict[str, Metric]:
    """How well the first reference does against the others of the same source, where there are several."""
    several = [wanted for wanted in references if len(wanted) > 1]
    return rouge([wanted[0] for wanted in several], [wanted[1:] for wanted in several], unit)


def lead(source: str) -> str:
    """The first sentence of a text."""
    return next((part.strip() for part in SENTENCE.split(source.strip()) if part.strip()), "")
