"""Metrics of sampled texts: variety, repetition, form; each beside the same of real texts."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from components.evaluation.intervals import average, resampled, share
from components.evaluation.overlap import Overlap
from components.evaluation.report import Metric
from components.modalities.text import Text

Unit = Literal["words", "characters"]
WORD = re.compile(r"\w+|[^\w\s]")
SELF_BLEU = 100
"""The most texts that are compared with each other."""
RESAMPLES = 100
ORDERS = (1, 2, 3)
REPEATED = 4
LONGEST_WORD, FEWEST_WORDS = 12, 8


@dataclass(frozen=True)
class Sampled:
    """One text; `cut` says that the limit of length ended it, and not the text itself."""

    text: str
    cut: bool = False


def unit_of(texts: Sequence[str]) -> Unit:
    """What n-grams of such texts are made of: words, or characters where there are no spaces or hardly a word.

    Words, if at least half of the texts hold 8 pieces between spaces or more, and such a piece has at most 12
    characters on the average. Chinese, and lists of names, are counted by characters.
    """
    pieces = [text.split() for text in texts]
    count = sum(map(len, pieces))
    characters = sum(len(word) for piece in pieces for word in piece)
    many = 2 * sum(len(piece) >= FEWEST_WORDS for piece in pieces) >= len(pieces)
    return "words" if many and count and characters / count <= LONGEST_WORD else "characters"


def split(text: str, unit: Unit) -> list[str]:
    """The words and the marks of a text, or its characters without spaces."""
    return WORD.findall(text) if unit == "words" else [one for one in text if not one.isspace()]


def measure(
    texts: Sequence[Sampled],
    overlaps: Sequence[Overlap],
    documents: frozenset[str],
    unit: Unit,
    over: int,
    seed: int,
) -> dict[str, Metric]:
    """The metrics that any texts have; `overlaps` and `documents` are of the training text, `over` as in `distinct`."""
    units = [split(one.text, unit) for one in texts]
    found = {f"distinct_{order}": distinct(units, order, over, seed) for order in ORDERS}
    found |= {"repetition": repetition(units), "self_bleu": self_bleu(units)}
    found["longest_overlap"] = median([float(overlap.length) for overlap in overlaps], seed)
    hits = [copied(one, overlap, documents) for one, overlap in zip(texts, overlaps, strict=True)]
    found["copied"] = share(torch.tensor(hits, dtype=torch.float64))
    return metrics(found)


def metrics(found: dict[str, tuple[float, float, float] | None]) -> dict[str, Metric]:
    """Values with intervals, with the direction of each; what could not be measured is left out."""
    return {name: Metric(*value, Text.metrics[name]) for name, value in found.items() if value is not None}


def distinct(
    units: Sequence[Sequence[str]], order: int, over: int, seed: int
) -> tuple[float, float, float] | None:
    """The share of different n-grams among the first `over` n-grams of the texts (Li et al. 2016).

    The share falls as texts grow, so all are measured over the same number. The interval is of resampled texts.
    """
    numbers: dict[tuple[str, ...], int] = {}
    rows = [
        np.array([numbers.setdefault(gram, len(numbers)) for gram in ngrams(row, order)], dtype=np.int64)
        for row in units
    ]
    rows = [row for row in rows if len(row)]
    if not rows:
        return None
    generator = np.random.default_rng(seed)
    draws = [
        _different([rows[place] for place in generator.integers(len(rows), size=len(rows))], over)
        for _ in range(RESAMPLES)
    ]
    value, low, high = resampled(_different(rows, over), torch.tensor(draws))
    return value, max(0.0, low), min(1.0, high)


def _different(rows: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]], over: int) -> float:
    joined = np.concatenate(rows)[:over]
    return float(np.count_nonzero(np.bincount(joined)) / len(joined))


def ngrams(row: Sequence[str], order: int) -> list[tuple[str, ...]]:
    """All runs of `order` units."""
    return list(zip(*(row[first:] for first in range(order)), strict=False))


def repetition(units: Sequence[Sequence[str]]) -> tuple[float, float, float] | None:
    """The mean share of 4-grams that stood in the same text before (seq-rep-4, Welleck et al. 2020)."""
    grams = [found for row in units if (found := ngrams(row, REPEATED))]
    if len(grams) < 2:
        return None
    shares = torch.tensor([1 - len(set(found)) / len(found) for found in grams], dtype=torch.float64)
    return _bounded(average(shares))


def self_bleu(units: Sequence[Sequence[str]]) -> tuple[float, float, float] | None:
    """The mean BLEU-4, from 0 to 1, of each text against all others (Zhu et al. 2018), of at most 100 texts."""
    import sacrebleu

    lines = [" ".join(row) for row in units if row][:SELF_BLEU]
    if len(lines) < 2:
        return None
    bleu = sacrebleu.BLEU(tokenize="none", effective_order=True, force=True)
    scores = [
        bleu.sentence_score(line, lines[:place] + lines[place + 1 :]).score / 100
        for place, line in enumerate(lines)
    ]
    return _bounded(average(torch.tensor(scores, dtype=torch.float64)))


def _bounded(found: tuple[float, float, float]) -> tuple[float, float, float]:
    value, low, high = found
    value = min(1.0, max(0.0, value))
    return value, max(0.0, low), min(1.0, high)


def median(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    """The median, with the 95% range of the medians of resamples."""
    table = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(table), size=(RESAMPLES, len(table)))
    value = float(np.median(table))
    low, high = np.quantile(np.median(table[draws], axis=1), [0.025, 0.975]).tolist()
    return value, min(value, low), max(value, high)


def copied(one: Sampled, overlap: Overlap, documents: frozenset[str]) -> bool:
    """Whether a text is a whole training document, or, where it was cut, stands in one."""
    if not one.text:
        return False
    return overlap.length == len(one.text) if one.cut else one.text in documents


def parses(texts: Sequence[Sampled]) -> tuple[float, float, float]:
    """The share that Python parses to at least one statement; what was cut does not count as parsing."""
    hits = [not one.cut and _statements(one.text) > 0 for one in texts]
    return share(torch.tensor(hits, dtype=torch.float64))


def _statements(text: str) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is no error
            return len(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0


def keeps_form(texts: Sequence[Sampled], pattern: str) -> tuple[float, float, float]:
    """The share of texts of which all matches `pattern`; what was cut does not count."""
    form = re.compile(pattern)
    hits = [not one.cut and form.fullmatch(one.text) is not None for one in texts]
    return share(torch.tensor(hits, dtype=torch.float64))
