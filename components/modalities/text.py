"""Text: documents packed into rows of tokens in Parquet, int64 for families, UTF-8 for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel
from torch import Tensor

from components.errors import UserError
from components.families.family import NOTHING, Batch, Kind, Requests, Shape
from components.modalities.completion import CompletionRequest
from components.modalities.modality import DRAW, Direction, Maker, Modality
from components.modalities.prompting import to_requests
from components.modalities.tokenizer import FILES, TextTokenizer, load_tokenizer


class Text(Modality):
    """Rows of tokens of one tokenizer, whole documents beside each other or windows of long ones."""

    name: ClassVar[str] = "text"
    makes: ClassVar[str] = "text"
    kind: ClassVar[Kind] = Kind.TOKENS
    request: ClassVar[type[BaseModel]] = CompletionRequest
    media_type: ClassVar[str] = "text/plain; charset=utf-8"
    extension: ClassVar[str] = ".txt"
    metrics: ClassVar[Mapping[str, Direction]] = {
        "bits_per_character": "lower",
        "perplexity": "lower",
        "rouge1": "higher",
        "rouge2": "higher",
        "rougeL": "higher",
        "parses": "higher",
        "keeps_form": "higher",
        "distinct_1": "higher",
        "distinct_2": "higher",
        "distinct_3": "higher",
        "repetition": "lower",
        "self_bleu": "lower",
        "longest_overlap": "lower",
        "copied": "lower",
    }
    assets: ClassVar[tuple[str, ...]] = FILES
    suffix: ClassVar[str] = ".txt"

    @property
    def random(self) -> bool:
        """Rows that are longer than the context are cut by chance."""
        return True

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of the dataset or the artifact."""
        assert self.folder is not None, "text needs the folder of its tokenizer"
        return load_tokenizer(self.folder)

    def check(self, shape: Shape) -> None:
        """Raise `UserError` if the tokenizer has another number of tokens than the weights."""
        if self.tokenizer.vocabulary != shape.vocabulary:
            raise UserError(
                f"The tokenizer in {self.folder} has {self.tokenizer.vocabulary} tokens and the weights have "
                f"{shape.vocabulary}; fetch or train the model again, with its own tokenizer."
            )

    def agrees(self, other: Modality) -> bool:
        """Whether the tokenizers are the same."""
        return isinstance(other, Text) and self.tokenizer.core.to_str() == other.tokenizer.core.to_str()

    def row_bytes(self, schema: pa.Schema) -> int:
        """Tokens and sources are padded to the longest."""
        context = json.loads(schema.metadata[b"genloom"])
        return 4 * int(context["longest"] + (context.get("source_shape") or [0])[0])

    def columns(self, table: pa.Table) -> dict[str, Tensor]:
        """`tokens` int32 [N, L] padded with `NOTHING`, `length` and `fresh` [N], `source` [N, S] where there is one.

        The last `fresh` tokens of a held-out row are those that no row before it held.
        """
        context = json.loads(table.schema.metadata[b"genloom"])
        columns = {"tokens": _padded(table.column("tokens"), context["longest"])}
        for name in ("length", "fresh"):
            columns[name] = torch.from_numpy(table.column(name).to_numpy().astype(np.int64))
        columns["width"] = torch.full_like(columns["length"], context["shape"][0])
        if "source" in table.column_names:
            columns["source"] = _padded(table.column("source"), context["source_shape"][0])
        return columns

    def batch(self, columns: Mapping[str, Tensor]) -> Batch:
        """`data` int64 [N, T]; of a longer row, the window that `DRAW` chooses (the first without it)."""
        tokens, length = columns["tokens"], columns["length"]
        width = int(columns["width"][0])
        room = (length - width).clamp(min=0)
        first = columns[DRAW] % (room + 1) if DRAW in columns else torch.zeros_like(length)
        place = first[:, None] + torch.arange(width)
        inside = place < length[:, None]
        data = tokens.long().gather(1, place.clamp(max=tokens.shape[1] - 1))
        data = torch.where(inside, data, NOTHING)
        given = None if DRAW in columns else (length - columns["fresh"]).clamp(min=1)
        source = columns["source"].long() if "source" in columns else None
        return Batch(data=data, length=length.clamp(max=width), given=given, source=source)

    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """Each prompt `n` times; see components/modalities/prompting.py."""
        return to_requests(self.tokenizer, body, model.shape, seeds)

    def answers(self, body: Any) -> int:
        """`n` for each prompt; a chat is one prompt."""
        prompts = len(body.prompt) if isinstance(body, CompletionRequest) else 1
        return prompts * (body.n or 1)

    def warm(self, shape: Shape) -> BaseModel:
        """A short prompt and all ways of sampling, cut where the context is short."""
        return CompletionRequest(
            prompt=["Once"],
            max_tokens=4,
            truncation="auto",
            temperature=0.8,
            top_k=5,
            top_p=0.9,
            min_p=0.01,
            repetition_penalty=1.1,
            frequency_penalty=0.1,
            seed=0,
        )

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """Eight continuations as the model itself draws them, without what keeps it from repeating itself."""
        return CompletionRequest(prompt=["Once"], n=8, max_tokens=64, truncation="auto", seed=seed)

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """The text of each row as UTF-8."""
        return [text.encode("utf-8") for text in self.texts(output)]

    def texts(self, output: Tensor) -> list[str]:
        """The text of each row [N, T] of tokens, of which `NOTHING` is left out."""
        rows = output.tolist()
        return [self.tokenizer.decode([token for token in row if token != NOTHING]) for row in rows]

    def picture(self, output: Tensor) -> bytes:
        """The texts of all rows below each other, numbered."""
        return numbered(self.texts(output))


def numbered(texts: Sequence[str]) -> bytes:
    """Texts below each other, numbered, for a person to read; UTF-8."""
    parts = [f"── {place} ──\n{text}\n" for place, text in enumerate(texts)]
    return "\n".join(parts).encode("utf-8")


def apart(content: bytes) -> list[str]:
    """The texts that `numbered` put below each other."""
    parts = re.split(r"^── \d+ ──\n", content.decode("utf-8"), flags=re.MULTILINE)[1:]
    return [
        part.removesuffix("\n\n") if place < len(parts) - 1 else part.removesuffix("\n")
        for place, part in enumerate(parts)
    ]


def _padded(column: pa.ChunkedArray, width: int) -> Tensor:
    """Rows of little-endian int32 bytes as int32 [N, width], padded with `NOTHING`."""
    padded = np.full((len(column), width), NOTHING, dtype=np.int32)
    for place, row in enumerate(column.to_pylist()):
        tokens = np.frombuffer(row, "<i4")
        padded[place, : len(tokens)] = tokens
    return torch.from_numpy(padded)


def schema(about: Mapping[str, Any], pairs: bool) -> pa.Schema:
    """The Arrow schema of prepared text; `about` holds shape, longest (row), vocabulary and what else is known.

    `tokens` are int32 as bytes, which reads many times as fast as a list; `id` is the sha256 of the document, or
    of the row where it holds several.
    """
    fields = [
        pa.field("id", pa.string()),
        pa.field("tokens", pa.binary()),
        pa.field("length", pa.int32()),
        pa.field("fresh", pa.int32()),
    ]
    if pairs:
        fields.append(pa.field("source", pa.binary()))
    content = {"modality": "text", **about}
    return pa.schema(fields, metadata={"genloom": json.dumps(content, sort_keys=True)})
