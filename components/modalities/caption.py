"""Captions as prompts: text to rows of tokens of one length, for a family that draws by them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.families.family import NOTHING
from components.modalities.tokenizer import TextTokenizer


def captioned(tokenizer: TextTokenizer, captions: Sequence[str], length: int) -> Tensor:
    """The tokens of captions, int64 [N, length], padded with `NOTHING`; what is longer is cut at its end.

    An empty caption is a row of `NOTHING`: no prompt at all.
    """
    rows = torch.full((len(captions), length), NOTHING, dtype=torch.int64)
    for row, tokens in zip(rows, tokenizer.encode_all([tidy(text) for text in captions]), strict=True):
        kept = tokens[:length]
        row[: len(kept)] = torch.tensor(kept, dtype=torch.int64)
    return rows


def tidy(caption: str) -> str:
    """A caption on one line with single spaces, as those of the dataset were prepared."""
    return " ".join(caption.split())


def spoken(tokenizer: TextTokenizer, prompt: Tensor) -> str:
    """The text of one row of tokens [P]."""
    return tokenizer.decode([token for token in prompt.tolist() if token != NOTHING])
