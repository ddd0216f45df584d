"""Text from a source to Parquet: each document once, a tokenizer trained, rows packed, a few documents to look at."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.data.dataset import SPLITS, Split, file_hash
from components.data.documents import Document, Library, texts_of
from components.data.encoding import Encoded, Encoder, RowPlan, write_rows
from components.data.example import Dropped, Progress
from components.data.report import Tally, Written
from components.data.single import cut_text
from components.data.stdlib import library_documents
from components.data.texts import TextFiles, open_texts
from components.errors import UserError
from components.modalities.text import schema
from components.modalities.tokenizer import FILES, TextTokenizer, train_tokenizer
from components.project import Project
from components.rows import Form, StdlibRow, TextFilesRow, TextRow

SHOWN, SHOWN_TOKENS = 12, 400
"""How many documents the preview shows, and how many tokens of each."""


@dataclass(frozen=True)
class _Source:
    """What is to be read, its form, and whether it is one text that is cut in order."""

    documents: Iterable[Document | Dropped]
    form: Form
    whole: bool
    files: TextFiles | None = None


def write_text(project: Project, name: str, row: TextRow, folder: Path, progress: Progress) -> Written:
    """Read the documents of `row` and write the splits, tokenizer and `preview.txt` into `folder`.

    Raises `UserError` for text that cannot be read, or too little of it.
    """
    source = open_documents(project, name, row, progress)
    tally = Tally()
    with Library(folder / "spool") as library:
        kept = _kept(source.documents, row, tally)
        if source.whole:
            splits = cut_text(name, kept, row, library)
        else:
            splits = _read(kept, library, row, tally)
            _check_splits(name, row, {split: len(keys) for split, keys in splits.items()}, tally)
        tokenizer = _train(name, row, source.form, library, splits["train"], progress)
        tokenizer.save(folder)
        encoder = Encoder(tokenizer, source.form, row.context, row.source_length, source.whole)
        encoded = _encode(name, encoder, library, splits, folder, progress)
    for found in encoded.values():
        for key in found.left_out:
            tally.drop(key, "a target longer than the context")
    _check_splits(name, row, {split: found.documents for split, found in encoded.items()}, tally)
    try:
        return _write(folder, name, row, source, encoder, encoded, tally)
    finally:
        for found in encoded.values():
            found.path.unlink(missing_ok=True)


def open_documents(project: Project, name: str, row: TextRow, progress: Progress) -> _Source:
    """The documents that `row` describes, in an order that only its content decides; raises `UserError`."""
    if isinstance(row, StdlibRow):
        return _Source(library_documents(name, row, progress), row.form, False)
    assert isinstance(row, TextFilesRow)
    files = open_texts(project, row, progress)
    return _Source(files.documents(name, progress), row.form, row.unit == "whole", files)


def _kept(documents: Iterable[Document | Dropped], row: TextRow, tally: Tally) -> Iterator[Document]:
    """The documents that have the form `keep`, at most `limit`; the others are counted."""
    kept = 0
    pattern = None if row.keep is None else re.compile(row.keep)
    for document in documents:
        tally.read += 1
        if isinstance(document, Dropped):
            tally.drop(document.name, document.reason)
        elif pattern is not None and not pattern.fullmatch(texts_of(document.content)[-1]):
            tally.drop(document.name, "not of the form that “keep” asks")
        else:
            kept += 1
            yield document
            if kept == row.limit:
                return


def _read(
    documents: Iterable[Document], library: Library, row: TextRow, tally: Tally
) -> dict[Split, list[str]]:
    """Each document once in the library, and the splits."""
    for document in documents:
        fault = library.add(document)
        if fault:
            tally.drop(document.name, fault)
    return library.splits(row.split)


def _check_splits(name: str, row: TextRow, counts: Mapping[Split, int], tally: Tally) -> None:
    """Raise `UserError` with the arithmetic unless every split that is asked for has a document."""
    if all(count or (split == "val" and row.split.val == 0) for split, count in counts.items()):
        return
    kept, left_out = sum(counts.values()), tally.reasons()
    if kept == 0:
        raise UserError(
            f"The dataset “{name}” has no text that can be read: {tally.read} found, {tally.read} left out"
            f"{left_out}; put text where its row points."
        )
    shares = ", ".join(f"{count} to {split}" for split, count in counts.items())
    raise UserError(
        f"The dataset “{name}” has too few documents: {tally.read} found, {tally.read - kept} left out{left_out}, "
        f"{kept} kept, of which {shares}; add documents, raise split.val ({row.split.val:g}) or split.test "
        f"({row.split.test:g}) of its row in params.yaml, or say unit: whole for one text to be cut in order."
    )


def _train(
    name: str, row: TextRow, form: Form, library: Library, keys: Sequence[str], progress: Progress
) -> TextTokenizer:
    """The tokenizer of the training documents; no held-out text is seen."""

    def texts() -> Iterator[str]:
        for place, key in enumerate(keys, start=1):
            yield from texts_of(library.content(key))
            progress(f"{name} (documents seen by the tokenizer)", place, len(keys))

    return train_tokenizer(row.tokenizer, texts(), row.vocabulary, form == "chat")


def _encode(
    name: str,
    encoder: Encoder,
    library: Library,
    splits: Mapping[Split, Sequence[str]],
    folder: Path,
    progress: Progress,
) -> dict[Split, Encoded]:
    """The tokens of every split, each in a file of its own beside the splits."""
    total, done = sum(map(len, splits.values())), 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(f"{name} (documents encoded)", done, total)

    return {
        split: encoder.encode(library, keys, split, folder / f"tokens-{split}", tell)
        for split, keys in splits.items()
    }


def _write(
    folder: Path,
    name: str,
    row: TextRow,
    source: _Source,
    encoder: Encoder,
    encoded: Mapping[Split, Encoded],
    tally: Tally,
) -> Written:
    """Write the rows and the preview."""
    rows = {split: encoder.rows(found, split) for split, found in encoded.items()}
    longest = max(len(plan) for plans in rows.values() for plan in plans)
    about = {"name": name, "licence": row.licence, "source": row.source}
    shape = _shape(row, encoder)
    arrow = schema({**about, **shape, "longest": longest}, source.form == "pairs")
    files = {}
    for split, plans in rows.items():
        for path, count in write_rows(folder / split, plans, encoded[split].tokens(), arrow, longest):
            files[f"{split}/{path.name}"] = {"rows": count, "sha256": file_hash(path)}
    assets = {asset: file_hash(folder / asset) for asset in FILES}
    manifest = {
        **about,
        "modality": row.modality,
        "revision": _revision(shape, encoder, encoded, assets),
        **shape,
        "classes": [],
        "files": files,
        "assets": assets,
        "details": _details(row, source.form, encoded),
    }
    (folder / "preview.txt").write_text(_preview(encoder.tokenizer, encoded["train"]), encoding="utf-8")
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": tally.read - tally.counts.total(),
        "dropped": tally.dropped(),
        "ignored_columns": [] if source.files is None else sorted(source.files.ignored),
        "vocabulary": shape["vocabulary"],
        "splits": {split: _count(encoder, encoded[split], rows[split]) for split in SPLITS},
    }
    return Written(manifest, report)


def _shape(row: TextRow, encoder: Encoder) -> dict[str, Any]:
    """The shape of the rows as the manifest states it."""
    vocabulary = encoder.tokenizer.vocabulary
    found: dict[str, Any] = {
        "shape": [row.context],
        "vocabulary": vocabulary,
        "prompt": [row.context, vocabulary],
    }
    return found | ({"source_shape": [row.source_length]} if encoder.form == "pairs" else {})


def _details(row: TextRow, form: Form, encoded: Mapping[Split, Encoded]) -> dict[str, Any]:
    return {
        "form": form,
        "scheme": row.tokenizer,
        "characters": {split: found.characters for split, found in encoded.items()},
        "tokens": {split: found.predicted for split, found in encoded.items()},
        "documents": {split: found.documents for split, found in encoded.items()},
        **({"pattern": row.keep} if row.keep is not None else {}),
    }


def _revision(
    shape: Mapping[str, Any], encoder: Encoder, encoded: Mapping[Split, Encoded], assets: Mapping[str, str]
) -> str:
    """The sha256 of what the dataset is: form, lengths, the tokenizer, and the content of each split in order."""
    settings = ["text", encoder.form, encoder.whole, dict(shape), dict(assets)]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for split, found in encoded.items():
        for sequence in found.sequences:
            digest.update(json.dumps([split, sequence.key]).encode())
        digest.update(found.tokens().data)
    return digest.hexdigest()


def _count(encoder: Encoder, found: Encoded, rows: Sequence[RowPlan]) -> dict[str, Any]:
    """What the report says of a split; padding is the share of the rows' places that stay empty."""
    places = len(rows) * encoder.width
    filled = sum(min(len(row), encoder.width) for row in rows)
    return {
        "rows": len(rows),
        "documents": found.documents,
        "characters": found.characters,
        "tokens": found.predicted,
        "characters_per_token": round(found.characters / found.predicted, 3) if found.predicted else None,
        "unknown_characters": found.unknown,
        "padding": round(1 - filled / places, 4) if places else None,
        **({"truncated_sources": found.truncated} if encoder.form == "pairs" else {}),
    }


def _preview(tokenizer: TextTokenizer, found: Encoded) -> str:
    """The first training documents, decoded from their tokens, with the special ones to be seen."""
    tokens = found.tokens()
    parts = []
    for sequence in found.sequences[:SHOWN]:
        last = min(sequence.last, sequence.first + SHOWN_TOKENS)
        text = tokenizer.core.decode(tokens[sequence.first : last].tolist(), skip_special_tokens=False)
        more = " …" if last < sequence.last else ""
        source = tokenizer.decode(tokens[sequence.source : sequence.first].tolist())
        above = f"{source}\n→\n" if source else ""
        parts.append(f"── {sequence.key[:10]}, {len(sequence)} tokens ──\n{above}{text}{more}\n")
    return "\n".join(parts)
