"""Text: the likelihood of the whole test split, and samples beside n-grams and held-out texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.errors import UserError
from components.evaluation import corpus, ngram
from components.evaluation.likelihood import likelihood
from components.evaluation.measurement import Extent, Measured, Measurement, Say, Subject, enough, finite
from components.evaluation.overlap import Overlap, longest_overlaps
from components.evaluation.report import Metric
from components.evaluation.rouge import among, lead, rouge
from components.evaluation.show_text import nearest_text, shown
from components.evaluation.text import Sampled, keeps_form, measure, metrics, parses, split, unit_of
from components.families.family import END, NOTHING, Requests, select
from components.families.sampling import mix
from components.modalities.text import numbered

VERSION = 2
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
WIDTH = 64
"""Rows that the model computes at once, the same for all models, whatever width they are served at."""
FEWEST, MOST = 64, 500
DRAWN = 128_000
"""The tokens that are drawn and, of pairs, read at most, unless a number of samples is given or it is too few."""
LOGITS = 2**23
"""The logits that are held at once when the likelihood is measured."""
TRAIN_CHARACTERS = 6_000_000
"""The most characters of the training text that are searched for overlaps and counted for the trivial model."""
DISTINCT = 20_000
SHOWN = 64
STARTS = 100
"""From so many documents on, real texts are the beginnings of documents, as samples are; below, all pieces."""


@dataclass(frozen=True)
class Texts:
    """One column: texts, and how they overlap with the training text."""

    texts: Sequence[Sampled]
    overlaps: Sequence[Overlap]


class TextMeasurement(Measurement):
    """Nats over the test split, metrics of samples, and for pairs of answers to its sources."""

    name: ClassVar[str] = "text"

    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        _check(dataset)
        enough(extent.samples)
        self.dataset, self.tokenizer = dataset, corpus.text_of(dataset).tokenizer
        self.form = str(dataset.details["form"])
        self.pattern: str | None = dataset.details.get("pattern")
        self.most = dataset.shape.data[0] - 1
        self.columns = corpus.columns_of(dataset, "test")
        self.test = dataset.tensors.batch(self.columns)
        read = dataset.shape.source[0] if dataset.shape.source else 0
        wanted = extent.samples or min(MOST, max(FEWEST, DRAWN // (self.most + read)))
        self.sources, self.references = self._pairs(wanted)
        self.real = self._real(wanted)
        self.samples = len(self.references) or wanted
        texts = [one.text for one in self.real]
        self.unit = unit_of(texts)
        self.over = max(1, min(DISTINCT, sum(len(split(text, self.unit)) for text in texts) // 2))
        self.protocol = self._protocol()

    def _protocol(self) -> dict[str, object]:
        greedy = self.form == "pairs"
        return {
            "version": VERSION,
            "samples": self.samples,
            "split": "test",
            "held_out": len(self.test),
            "tokens": int(self.counted.sum()),
            "characters": int(self.characters.sum()),
            "reference": len(self.real),
            "form": self.form,
            "pattern": self.pattern,
            "decoding": "greedy, from held-out sources" if greedy else "free, at temperature 1",
            "longest": self.most,
            "unit": self.unit,
            "distinct_over": self.over,
            "train_characters": TRAIN_CHARACTERS,
            "baseline": "first sentence" if greedy else f"{ngram.ORDER}-gram",
            "seed": SEED,
            "width": WIDTH,
        }

    @cached_property
    def counted(self) -> Tensor:
        """How many tokens of each test row are predicted, [N]."""
        assert self.test.given is not None
        return self.test.length - self.test.given

    @cached_property
    def characters(self) -> Tensor:
        """How many characters each test row stands for, [N]; their sum is what the dataset says of the split.

        Without the dataset's count a character that no token stands for, or whose bytes lie in two rows, would
        not be counted as one.
        """
        assert self.test.given is not None
        rows = zip(self.test.data.numpy(), self.test.given.tolist(), self.test.length.tolist(), strict=True)
        texts = corpus.read(self.tokenizer, [row[first:last] for row, first, last in rows])
        found = torch.tensor([len(text) for text in texts], dtype=torch.float64)
        return found * (float(self.dataset.details["characters"]["test"]) / max(1.0, float(found.sum())))

    def _pairs(self, wanted: int) -> tuple[Tensor | None, list[list[str]]]:
        """Up to `wanted` different sources [n, S] of the test split, and the references of each."""
        if self.form != "pairs":
            return None, []
        assert self.test.source is not None
        groups: dict[bytes, list[int]] = {}
        for place, source in enumerate(self.test.source.numpy()):
            groups.setdefault(source.tobytes(), []).append(place)
        texts = corpus.text_of(self.dataset).texts(self.test.data)
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(mix(SEED, 1)))[:wanted]
        chosen = [list(groups.values())[place] for place in order.tolist()]
        return self.test.source[[rows[0] for rows in chosen]], [
            [texts[row] for row in rows] for rows in chosen
        ]

    def _real(self, wanted: int) -> list[Sampled]:
        """Held-out texts, as long as samples may be; of pairs, the first reference of each source."""
        if self.form == "pairs":
            return [Sampled(wanted[0]) for wanted in self.references]
        documents = corpus.documents(self.columns, train=False)
        parts = corpus.pieces(documents, self.most, len(documents) >= STARTS)
        order = torch.randperm(len(parts), generator=torch.Generator().manual_seed(mix(SEED, 2)))[:wanted]
        chosen = [parts[place] for place in order.tolist()]
        texts = corpus.read(self.tokenizer, [tokens for tokens, _ in chosen])
        return [Sampled(text, cut) for text, (_, cut) in zip(texts, chosen, strict=True)]

    def measure(self, subject: Subject, say: Say) -> Measured:
        """The metrics of the model, of the trivial model and of held-out texts."""
        drawn = self._sample(subject, say)
        say("fitting the trivial model")
        train = self._train()
        trivial = ngram.fit(_stream(train), self.dataset.shape.vocabulary)
        say("looking for overlaps with the training text")
        pieces = corpus.read(self.tokenizer, [document.tokens for document in train])
        sets = _compared(pieces, {"model": drawn, "baseline": self._trivial(trivial), "real": self.real})
        known = frozenset(piece for piece, document in zip(pieces, train, strict=True) if document.whole)
        say("measuring the likelihood of the test split")
        likelihoods = {"model": self._likelihood(subject, say), "baseline": self._trivial_likelihood(trivial)}
        say("comparing samples with held-out texts")
        found = {
            name: self._measured(name, texts, likelihoods.get(name, {}), known)
            for name, texts in sets.items()
        }
        files = {
            "samples.txt": numbered([shown(one) for one in drawn[:SHOWN]]),
            "nearest.txt": nearest_text(drawn, sets["model"].overlaps, pieces),
        }
        return Measured(found["model"], found["baseline"], found["real"], files, _facts(sets))

    def _measured(
        self, column: str, texts: Texts, likelihoods: dict[str, Metric], known: frozenset[str]
    ) -> dict[str, Metric]:
        """All metrics of one column; the first is the primary one: ROUGE for pairs, else bits a character."""
        answers = [one.text for one in texts.texts]
        found = dict(likelihoods)
        if self.form == "pairs":
            real = column == "real"
            found = (
                among(self.references, self.unit) if real else rouge(answers, self.references, self.unit)
            ) | found
        if self.form == "code":
            found |= metrics({"parses": parses(texts.texts)})
        if self.pattern is not None:
            found |= metrics({"keeps_form": keeps_form(texts.texts, self.pattern)})
        return found | measure(texts.texts, texts.overlaps, known, self.unit, self.over, SEED)

    def _sample(self, subject: Subject, say: Say) -> list[Sampled]:
        """Texts drawn from the beginning of a document, or greedy answers to held-out sources."""
        parts = []
        for first in range(0, self.samples, WIDTH):
            say(f"drawing samples … {100 * first // self.samples}%")
            part = slice(first, min(first + WIDTH, self.samples))
            seed = torch.arange(part.start, part.stop) + SEED
            options = {"max_tokens": torch.full_like(seed, self.most)}
            source = None
            if self.sources is not None:
                options["temperature"], source = torch.zeros(len(seed)), self.sources[part]
            parts.append(subject.sample(Requests(seed=seed, source=source, options=options), WIDTH))
        return corpus.sampled(self.tokenizer, torch.cat(parts).numpy(), self.most)

    def _trivial(self, trivial: ngram.Ngrams) -> list[Sampled]:
        """What the trivial model draws; for pairs, the first sentence of each source."""
        if self.sources is not None:
            rows = [row[row != NOTHING] for row in self.sources.numpy()]
            return [Sampled(lead(text)) for text in corpus.read(self.tokenizer, rows)]
        output = trivial.sample(self.samples, self.most, mix(SEED, 3))
        return corpus.sampled(self.tokenizer, output, self.most)

    def _train(self) -> list[corpus.Document]:
        """The training documents, or so many of them, drawn by a fixed seed, as have about `TRAIN_CHARACTERS`."""
        details = self.dataset.details
        rate = float(details["characters"]["train"]) / max(1, int(details["tokens"]["train"]))
        left, chosen = int(TRAIN_CHARACTERS / max(rate, 1e-9)), []
        found = corpus.documents(corpus.columns_of(self.dataset, "train", 2 * left), train=True)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(mix(SEED, 4)))
        for place in order.tolist() if sum(len(one.tokens) for one in found) > left else range(len(found)):
            document = found[place]
            chosen.append(
                corpus.Document(document.tokens[:left], document.whole and len(document.tokens) <= left)
            )
            left -= len(document.tokens)
            if left <= 0:
                break
        return chosen

    def _likelihood(self, subject: Subject, say: Say) -> dict[str, Metric]:
        """Bits a character and perplexity of the model, if it has nats; a few rows at a time."""
        rows = max(1, min(WIDTH, LOGITS // (self.most * max(1, self.dataset.shape.vocabulary))))
        parts = []
        for first in range(0, len(self.test), rows):
            if first // rows % 20 == 0:
                say(f"measuring the likelihood of the test split … {100 * first // len(self.test)}%")
            nats = subject.nats(select(self.test, slice(first, first + rows)))
            if nats is None:
                return {}
            parts.append(nats)
        nats = finite(torch.cat(parts), "likelihoods of test rows")
        return likelihood(nats, self.counted, self.characters, mix(SEED, 5))

    def _trivial_likelihood(self, trivial: ngram.Ngrams) -> dict[str, Metric]:
        assert self.test.given is not None
        nats, tokens = trivial.nats(self.test.data.numpy(), self.test.given.numpy())
        assert np.array_equal(tokens, self.counted.numpy()), "each held-out token is counted once"
        return likelihood(torch.from_numpy(nats), self.counted, self.characters, mix(SEED, 5))


def _check(dataset: Dataset) -> None:
    """Raise `UserError` where an evaluation makes no sense."""
    if dataset.rows("test") < 2:
        raise UserError(
            f"The test split of the dataset “{dataset.name}” has {dataset.rows('test')} rows and evaluation "
            "needs at least 2; add data or raise split.test in params.yaml."
        )


def _compared(pieces: Sequence[str], columns: dict[str, list[Sampled]]) -> dict[str, Texts]:
    """The texts of all columns, compared with the training text at once."""
    found = longest_overlaps(pieces, [one.text for texts in columns.values() for one in texts])
    sets = {}
    for name, texts in columns.items():
        sets[name], found = Texts(texts, found[: len(texts)]), found[len(texts) :]
    return sets


def _facts(sets: dict[str, Texts]) -> dict[str, dict[str, float]]:
    """What is neither better nor worse: the mean length in characters, the longest of all overlaps, the cut ones."""
    return {
        "length": {name: _mean([len(one.text) for one in of.texts]) for name, of in sets.items()},
        "cut": {name: _mean([one.cut for one in of.texts]) for name, of in sets.items()},
        "longest_overlap_max": {
            name: float(max(overlap.length for overlap in of.overlaps)) for name, of in sets.items()
        },
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _stream(documents: Sequence[corpus.Document]) -> corpus.Tokens:
    """All documents in one row [1, M], with `END` between them."""
    parts = [np.array([END])]
    for document in documents:
        parts += [document.tokens, np.array([END])]
    return np.concatenate(parts).astype(np.int64)[None]
