"""One text that is cut in order into its splits, kept in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from components.data.dataset import SPLITS, Split
from components.data.documents import Document, Library
from components.errors import UserError
from components.rows import TextRow

PIECE = 2**20
"""About how many characters a piece has; it ends behind a newline, where there is one."""


def cut_text(
    name: str, documents: Iterable[Document], row: TextRow, library: Library
) -> dict[Split, list[str]]:
    """Put the texts of each split into the library, in order and in pieces; the keys of each split.

    Several files are one text, in the order of their names. Official splits are kept; without them, the last
    share is the test split, the one before it the validation split. Raises `UserError` if a split is too short.
    """
    found: dict[Split | None, str] = {}
    for document in documents:
        assert isinstance(document.content, str)
        before = found.get(document.split, "")
        if before and not before.endswith("\n"):
            before += "\n"
        found[document.split] = before + document.content
    texts = _shares(found, row)
    _check(name, texts, row)
    splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
    for split, text in texts.items():
        for place, piece in enumerate(_pieces(text)):
            try:
                digest = hashlib.sha256(piece.encode("utf-8")).hexdigest()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"The text of “{name}” has half a character in it ({error}); mend it."
                ) from error
            key = f"{digest}-{split}-{place}"
            library.put(key, piece, split)
            splits[split].append(key)
    return splits


def _shares(found: dict[Split | None, str], row: TextRow) -> dict[Split, str]:
    """The text of each split; what the source lacks is cut off the end of the training text."""
    text = found.get(None, "") + found.get("train", "")
    size = len(text)
    test = 0.0 if "test" in found else row.split.test
    val = 0.0 if "val" in found else row.split.val
    first, second = int(size * (1 - val - test)), int(size * (1 - test))
    return {
        "train": text[:first],
        "val": found.get("val", text[first:second]),
        "test": found.get("test", text[second:]),
    }


def _check(name: str, texts: dict[Split, str], row: TextRow) -> None:
    sizes = ", ".join(f"{len(text):,} for {split}" for split, text in texts.items())
    short = len(texts["train"]) < row.context or len(texts["test"]) < 2
    if short or len(texts["val"]) == 1 or (row.split.val > 0 and not texts["val"]):
        raise UserError(
            f"The single text of “{name}” is too short for its splits ({sizes} characters): training needs at least "
            f"the context of {row.context}, held-out parts 2; add text, or change split or context of its row."
        )


def _pieces(text: str) -> Iterator[str]:
    first = 0
    while first < len(text):
        last = min(len(text), first + PIECE)
        if last < len(text):
            last = text.rfind("\n", first, last) + 1 or last
        yield text[first:last]
        first = last
