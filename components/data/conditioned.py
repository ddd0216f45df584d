"""What is prepared beside pictures: how sources are made of them, and their captions as tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.dataset import Split, file_hash
from components.data.spool import Column, Spool, binary
from components.image_rows import ImageRow, PicturesRow, UnpairedRow
from components.modalities.caption import captioned, tidy
from components.modalities.conditions import PLAIN, Conditions, save_conditions
from components.modalities.corruption import Corruption
from components.modalities.tokenizer import TextTokenizer, train_tokenizer
from components.modalities.views import View


@dataclass(frozen=True)
class Prompts:
    """Captions as tokens [N, P], each content's in its row; `cut` counts those that were longer."""

    tokenizer: TextTokenizer
    tokens: np.ndarray[Any, np.dtype[np.int32]]
    rows: Mapping[str, int]
    cut: int

    @property
    def length(self) -> int:
        """P: the tokens of the longest caption that is kept."""
        return int(self.tokens.shape[1])

    def column(self, keys: Sequence[str]) -> pa.Array:
        """The tokens of these contents, int32 as bytes."""
        return binary(self.tokens[[self.rows[key] for key in keys]])


@dataclass(frozen=True)
class Beside:
    """What stands beside the pictures: its columns, the shape of sources that are pictures, what files say of it.

    `rows` say what belongs to each picture, for the revision.
    """

    conditions: Conditions = PLAIN
    columns: Mapping[str, Column] = field(default_factory=dict)
    source: tuple[int, int, int] | None = None
    prompts: Prompts | None = None
    rows: Sequence[Any] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> dict[str, str]:
        """Write the files of the conditions into `folder`; their hashes by name."""
        return {name: file_hash(folder / name) for name in save_conditions(folder, self.conditions)}

    def manifest(self, stored: tuple[int, ...]) -> dict[str, Any]:
        """What the manifest says of pictures that are stored as `stored` [C, H, W]; nothing of plain ones."""
        shape = self.conditions.view.shape(stored)
        found: dict[str, Any] = {"shape": list(shape)}
        if self.prompts is not None:
            found["prompt"] = [self.prompts.length, self.prompts.tokenizer.vocabulary]
        if self.conditions.corruption is not None:
            found["source_shape"] = list(self.conditions.corruption.shape(shape))
        return found


def beside(row: ImageRow, spool: Spool, splits: Mapping[Split, Sequence[str]]) -> Beside:
    """What stands beside the pictures of one source, by its row."""
    channels = spool.shape[0] // 2
    paired = isinstance(row, PicturesRow) and row.paired
    prompts = (
        _prompts(row, spool, splits) if isinstance(row, PicturesRow) and row.caption is not None else None
    )
    columns: dict[str, Column] = {} if prompts is None else {"prompt": prompts.column}
    if paired:
        columns["source"] = lambda keys: spool.images(keys, slice(channels, None))
    return Beside(
        conditions=conditions(row, None if prompts is None else prompts.tokenizer),
        columns=columns,
        source=(channels, *spool.shape[1:]) if paired else None,
        prompts=prompts,
        rows=() if prompts is None else [[key, spool.caption(key)] for key in prompts.rows],
        facts={} if prompts is None else {"captions": _facts(prompts)},
    )


def conditions(row: ImageRow, captions: TextTokenizer | None = None) -> Conditions:
    """How sources are made, captions read and pictures seen, as a row says."""
    corruption = None if row.corrupt is None else Corruption(row.corrupt.kind, row.corrupt.amount)
    if isinstance(row, UnpairedRow):
        corruption = Corruption("unpaired")
    if isinstance(row, PicturesRow) and row.paired:
        corruption = Corruption("pairs")
    return Conditions(corruption, captions, View(row.crop or 0, row.flip, row.rotate))


def revision(pictures: str, found: Beside, assets: Mapping[str, str]) -> str:
    """The revision of a dataset whose pictures alone have the revision `pictures`; the same where nothing is beside."""
    if found.conditions == PLAIN:
        return pictures
    digest = hashlib.sha256(json.dumps([pictures, dict(sorted(assets.items()))]).encode())
    for row in found.rows:
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _prompts(row: PicturesRow, spool: Spool, splits: Mapping[Split, Sequence[str]]) -> Prompts:
    """The captions as tokens; the tokenizer sees those of the training split alone."""
    options = row.captions
    said = {key: tidy(spool.caption(key) or "") for keys in splits.values() for key in keys}
    seen = (said[key] for key in splits["train"])
    tokenizer = train_tokenizer(options.tokenizer, seen, options.vocabulary, chat=False)
    lengths = [len(tokens) for tokens in tokenizer.encode_all(list(said.values()))]
    longest = max(1, min(options.length, max(lengths)))
    tokens = captioned(tokenizer, list(said.values()), longest).numpy().astype("<i4")
    return Prompts(
        tokenizer, tokens, {key: place for place, key in enumerate(said)}, _above(lengths, longest)
    )


def _above(lengths: Sequence[int], most: int) -> int:
    return sum(length > most for length in lengths)


def _facts(prompts: Prompts) -> dict[str, Any]:
    return {"vocabulary": prompts.tokenizer.vocabulary, "tokens": prompts.length, "cut": prompts.cut}
