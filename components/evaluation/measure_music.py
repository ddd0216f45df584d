"""Music: the likelihood of held-out pieces, and samples beside n-grams and real pieces, to be seen and heard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from components.data.dataset import Dataset, Split
from components.errors import UserError
from components.evaluation import corpus, ngram
from components.evaluation.likelihood import rates
from components.evaluation.measurement import Extent, Measured, Measurement, Say, Subject, enough, finite
from components.evaluation.music import Alphabet, Compared, Line, compared, copies, form, likeness
from components.evaluation.overlap import Overlap, longest_overlaps
from components.evaluation.report import Metric
from components.families.family import END, NOTHING, Requests, select
from components.families.sampling import mix
from components.modalities.midi import write_midi
from components.modalities.music import Music
from components.modalities.roll import rolls
from components.modalities.score import Note, Score
from components.modalities.strings import play

VERSION = 1
"""Raised when anything changes the numbers for the same model and data."""
SEED = 0
WIDTH = 64
"""Rows that the model computes at once, the same for all models, whatever width they are served at."""
FEWEST, MOST = 100, 256
DRAWN = 128_000
"""The tokens that are drawn at most, unless a number of samples is given or it is too few."""
LOGITS = 2**23
"""The logits that are held at once when the likelihood is measured."""
TRAIN_TOKENS = 2_000_000
"""The most tokens of training pieces that are searched for copies and counted for the trivial model."""
SHOWN, NEAREST = 8, 4
HEARD, HEARD_BARS = 4, 16


@dataclass(frozen=True)
class _Column:
    """Pieces of one column as lines, and how they overlap with the training pieces."""

    scores: Sequence[Score]
    lines: Sequence[Line]
    overlaps: Sequence[Overlap]


class MusicMeasurement(Measurement):
    """Nats a frame over the test split; the histograms, forms and copies of samples."""

    name: ClassVar[str] = "music"

    def __init__(self, dataset: Dataset, cache: Path, extent: Extent, say: Say) -> None:
        if dataset.rows("test") < 2:
            raise UserError(
                f"The test split of the dataset “{dataset.name}” has {dataset.rows('test')} rows and evaluation "
                "needs at least 2; add pieces or raise split.test in params.yaml."
            )
        enough(extent.samples)
        assert isinstance(dataset.tensors, Music)
        self.dataset, self.notation = dataset, dataset.tensors.notation
        self.most = dataset.shape.data[0] - 1
        self.columns = corpus.columns_of(dataset, "test")
        self.test = dataset.tensors.batch(self.columns)
        self.samples = extent.samples or min(MOST, max(FEWEST, DRAWN // self.most))
        self.held_out = self._pieces("test")
        self.real = self._pieces("val")[: self.samples]
        self.protocol = {
            "version": VERSION,
            "samples": self.samples,
            "split": "test",
            "held_out": len(self.held_out),
            "tokens": int(self.counted.sum()),
            "frames": self.frames,
            "reference": len(self.real),
            "decoding": "free, at temperature 1",
            "longest": self.most,
            "train_tokens": TRAIN_TOKENS,
            "baseline": f"{ngram.ORDER}-gram",
            "seed": SEED,
            "width": WIDTH,
        }

    @property
    def frames(self) -> int:
        """The steps of all test pieces."""
        return int(self.dataset.details["frames"]["test"])

    @cached_property
    def ends(self) -> Tensor:
        """Whether each test row ends with `END`, bool [N]: where a piece ends is not part of its frames."""
        last = self.test.data.gather(1, self.test.length[:, None] - 1).squeeze(1)
        return last == END

    @cached_property
    def counted(self) -> Tensor:
        """How many tokens of each test row are predicted, [N], without the `END`."""
        assert self.test.given is not None
        return self.test.length - self.test.given - self.ends.long()

    def _pieces(self, split: Split) -> list[Score]:
        """The beginnings of a split's pieces, as long as samples may be."""
        found = corpus.documents(corpus.columns_of(self.dataset, split), train=False)
        return [self.notation.decode(tokens.tolist()) for tokens, _ in corpus.pieces(found, self.most, True)]

    def measure(self, subject: Subject, say: Say) -> Measured:
        """The metrics of the model, of the trivial model and of real pieces that nobody trained on."""
        drawn = self._sample(subject, say)
        say("fitting the trivial model")
        train = self._train()
        trivial = ngram.fit(_stream(train), self.dataset.shape.vocabulary)
        say("looking for copies of training pieces")
        known = [self.notation.decode(document.tokens.tolist()) for document in train]
        base = self._decoded(trivial.sample(self.samples, self.most, mix(SEED, 3)))
        columns, pieces = _columns(known, {"model": drawn, "baseline": base, "real": self.real})
        say("measuring the likelihood of the test split")
        likelihoods = {"model": self._likelihood(subject, say), "baseline": self._trivial_likelihood(trivial)}
        say("comparing samples with held-out pieces")
        real = compared(self.held_out)
        found = {
            name: likelihoods.get(name, {}) | _measured(real, column) for name, column in columns.items()
        }
        files = {
            "samples.png": rolls(drawn[:SHOWN]),
            "nearest.png": _nearest(columns["model"], known, pieces),
            **_heard(drawn[:HEARD]),
        }
        return Measured(found["model"], found["baseline"], found["real"], files, _facts(columns))

    def _sample(self, subject: Subject, say: Say) -> list[Score]:
        """Pieces from their beginning, until they end or the context is full."""
        parts = []
        for first in range(0, self.samples, WIDTH):
            say(f"drawing samples … {100 * first // self.samples}%")
            seed = torch.arange(first, min(first + WIDTH, self.samples)) + SEED
            options = {"max_tokens": torch.full_like(seed, self.most)}
            parts.append(subject.sample(Requests(seed=seed, options=options), WIDTH))
        return self._decoded(torch.cat(parts).numpy())

    def _decoded(self, output: corpus.Tokens) -> list[Score]:
        return [self.notation.decode(row[row != NOTHING].tolist()) for row in output]

    def _train(self) -> list[corpus.Document]:
        """The training pieces, or so many of them as have about `TRAIN_TOKENS`."""
        found = corpus.documents(corpus.columns_of(self.dataset, "train", TRAIN_TOKENS), train=True)
        sizes = np.cumsum([len(one.tokens) for one in found])
        return found[: max(1, int(np.searchsorted(sizes, TRAIN_TOKENS)) + 1)]

    def _likelihood(self, subject: Subject, say: Say) -> dict[str, Metric]:
        """Nats a frame and perplexity of the model, if it has nats; a few rows at a time."""
        test = replace(self.test, length=self.test.length - self.ends.long())
        rows = max(1, min(WIDTH, LOGITS // (self.most * self.dataset.shape.vocabulary)))
        parts = []
        for first in range(0, len(test), rows):
            nats = subject.nats(select(test, slice(first, first + rows)))
            if nats is None:
                return {}
            parts.append(nats)
        return self._rates(finite(torch.cat(parts), "likelihoods of test rows"))

    def _trivial_likelihood(self, trivial: ngram.Ngrams) -> dict[str, Metric]:
        assert self.test.given is not None
        data = self.test.data.clone()
        data[self.ends] = data[self.ends].scatter(1, self.test.length[self.ends, None] - 1, NOTHING)
        nats, tokens = trivial.nats(data.numpy(), self.test.given.numpy())
        assert np.array_equal(tokens, self.counted.numpy()), "each held-out token is counted once"
        return self._rates(torch.from_numpy(nats))

    def _rates(self, nats: Tensor) -> dict[str, Metric]:
        frames = self.counted * (self.frames / max(1, int(self.counted.sum())))
        per_frame, per_token = rates(nats, [frames, self.counted], mix(SEED, 5))
        value, low, high = (math.exp(found) for found in per_token)
        return _metrics({"nats_per_frame": per_frame, "perplexity": (value, low, high)})


def _metrics(found: Mapping[str, tuple[float, float, float]]) -> dict[str, Metric]:
    return {name: Metric(*value, Music.metrics[name]) for name, value in found.items()}


def _stream(documents: Sequence[corpus.Document]) -> corpus.Tokens:
    """All pieces in one row [1, M], with `END` between them."""
    parts = [np.array([END])]
    for document in documents:
        parts += [document.tokens, np.array([END])]
    return np.concatenate(parts).astype(np.int64)[None]


def _columns(
    known: Sequence[Score], columns: Mapping[str, Sequence[Score]]
) -> tuple[dict[str, _Column], list[Line]]:
    """All columns, compared with the training pieces at once; and those as lines."""
    alphabet = Alphabet()
    pieces = [alphabet.line(score) for score in known]
    lines = {name: [alphabet.line(score) for score in scores] for name, scores in columns.items()}
    texts = [line.text for own in lines.values() for line in own]
    found = longest_overlaps([line.text for line in pieces], texts)
    sets = {}
    for name, scores in columns.items():
        sets[name], found = _Column(scores, lines[name], found[: len(scores)]), found[len(scores) :]
    return sets, pieces


def _measured(real: Compared, column: _Column) -> dict[str, Metric]:
    return _metrics(
        likeness(real, column.scores, mix(SEED, 6))
        | form(column.scores)
        | copies(column.lines, column.overlaps, mix(SEED, 7))
    )


def _nearest(model: _Column, known: Sequence[Score], pieces: Sequence[Line]) -> bytes:
    """The samples with the longest copied runs, each above the training piece; the run stands on yellow."""
    order = sorted(range(len(model.scores)), key=lambda place: -model.overlaps[place].length)[:NEAREST]
    shown: list[Score] = []
    marks: list[tuple[int, int] | None] = []
    for place in order:
        overlap = model.overlaps[place]
        for score, line, first in (
            (model.scores[place], model.lines[place], overlap.start),
            (known[overlap.piece], pieces[overlap.piece], overlap.place),
        ):
            shown.append(score)
            run = (line.starts[first], line.starts[first + overlap.length] + 1) if overlap.length else None
            marks.append(run)
    return rolls(shown, marks)


def _heard(scores: Sequence[Score]) -> dict[str, bytes]:
    """The beginnings of samples one after the other, as MIDI and to hear."""
    joined = one_after_another([score.cut(0, HEARD_BARS * score.bar) for score in scores])
    return {"samples.mid": write_midi(joined), "samples.wav": play(joined)}


def one_after_another(scores: Sequence[Score]) -> Score:
    """Pieces of one notation behind each other, with an empty bar between two."""
    notes: list[Note] = []
    at = 0
    for score in scores:
        notes += [replace(note, start=note.start + at) for note in score.notes]
        at += (score.bars + 1) * score.bar
    return replace(scores[0], notes=tuple(sorted(notes)), length=max(0, at - scores[0].bar))


def _facts(columns: Mapping[str, _Column]) -> dict[str, dict[str, float]]:
    """What is neither better nor worse: the mean length in bars, the longest of all copied runs."""
    return {
        "bars": {name: float(np.mean([one.bars for one in of.scores])) for name, of in columns.items()},
        "longest_overlap_max": {
            name: float(max(one.length + 1 if one.length else 0 for one in of.overlaps))
            for name, of in columns.items()
        },
    }
