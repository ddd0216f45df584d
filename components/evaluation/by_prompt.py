"""Pictures that are asked for by a caption: does the judge of captions find the caption again?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.data.dataset import Dataset
from components.evaluation.asked import Asked, Rows
from components.evaluation.captions import caption_judge, chance, prompts
from components.evaluation.condition import Condition, Facts, Values
from components.evaluation.image import eight_bit
from components.evaluation.measurement import Say, Subject, finite
from components.evaluation.report import Metric
from components.evaluation.sheet import sheet
from components.families.family import Requests
from components.modalities.caption import spoken
from components.modalities.image import Image

RANK = "caption_reciprocal_rank"
KNOWN, LEARNED = 2_000, 500
"""The most training captions that a caption is looked for among, and those that are drawn."""
DOWN, ACROSS = 10, 7
"""Captions that are shown, and samples of each."""


class ByPrompt(Condition):
    """Samples are asked for by the captions of held-out rows; a caption is looked for among all of these."""

    def __init__(self, dataset: Dataset, test: Rows, cache: Path, say: Say, seed: int, width: int) -> None:
        assert isinstance(dataset.tensors, Image)
        self.tokenizer = dataset.tensors.conditions.captions
        self.judge = caption_judge(dataset, cache, say)
        self.test, self.train = test, Rows(dataset, "train", KNOWN, seed)
        self.held_out, self.known = _captions(self.test), _captions(self.train)
        self.among = {"test": self.judge.read(self.held_out), "train": self.judge.read(self.known)}
        self.seed, self.width = seed, width
        self.learned = min(LEARNED, len(self.train))
        self.protocol: Mapping[str, Any] = {
            "asked": "captions of held-out rows",
            "captions": len(self.held_out),
            "training_captions": len(self.known),
            "asked_training_captions": self.learned,
            "captions_digest": self.judge.digest[:16],
        }

    def requests(self, asked: Asked, seed: Tensor) -> Requests:
        """Each with its row's caption."""
        return Requests(seed=seed, prompt=prompts(asked))

    def obeyed(self, pictures: Tensor, asked: Asked) -> Values:
        """One over the rank of the row's caption among those of all held-out rows."""
        return {RANK: self._reciprocal(pictures, asked, "test")}

    def _reciprocal(self, pictures: Tensor, asked: Asked, split: str) -> Tensor:
        captions = self.held_out if split == "test" else self.known
        right = (prompts(asked)[:, None] == captions[None]).all(2).int().argmax(1)
        return 1 / self.judge.ranks(pictures, right, self.among[split])

    def chance(self) -> Mapping[str, Metric]:
        """The mean reciprocal rank of a guess."""
        guess = chance(len(self.held_out))
        return {RANK: Metric(guess, guess, guess, Image.metrics[RANK])}

    def facts(self, subject: Subject, say: Say) -> Facts:
        """The same for captions that the model has seen in training, among training captions."""
        drawn, real = [], []
        for asked, places in self.train.parts(self.learned):
            say(f"drawing by training captions … {100 * int(places[0]) // self.learned}%")
            pictures = subject.sample(self.requests(asked, places + self.seed), self.width)
            pictures = eight_bit(finite(pictures, "samples"))
            drawn.append(self._reciprocal(pictures, asked, "train"))
            real.append(self._reciprocal(asked.data, asked, "train"))
        found = {"model": float(torch.cat(drawn).mean()), "real": float(torch.cat(real).mean())}
        return {f"{RANK}_training": {**found, "baseline": chance(len(self.known))}}

    def pictures(self, subject: Subject, samples: Tensor) -> Mapping[str, bytes]:
        """The first held-out and the first training captions, each with its real picture before samples of it."""
        return {
            "samples.png": self._sheet(subject, self.test),
            "samples_training.png": self._sheet(subject, self.train),
        }

    def _sheet(self, subject: Subject, rows: Rows) -> bytes:
        down = min(DOWN, len(rows))
        asked = rows.at(torch.arange(down).repeat_interleave(ACROSS))
        seed = torch.arange(ACROSS).repeat(down)
        drawn = eight_bit(subject.sample(self.requests(asked, seed), self.width))
        lines = drawn.view(down, ACROSS, *drawn.shape[1:])
        first = asked.data.view_as(lines)[:, :1]
        names = [self._words(row) for row in prompts(asked)[::ACROSS]]
        return sheet(torch.cat([first, lines], 1), names, ["real", *[""] * ACROSS])

    def _words(self, prompt: Tensor) -> str:
        if self.tokenizer is None:
            return " ".join(str(token) for token in prompt.tolist() if token >= 0)
        return spoken(self.tokenizer, prompt)


def _captions(rows: Rows) -> Tensor:
    """The different captions of rows, [K, P]."""
    every = [tuple(row) for asked, _ in rows.parts() for row in prompts(asked).tolist()]
    return torch.tensor(list(dict.fromkeys(every)))
