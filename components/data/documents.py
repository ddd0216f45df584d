"""Documents on disk while a dataset is read: each content once, split by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from components.data.dataset import SPLITS, Split
from components.data.spool import HELD_OUT, split_of
from components.rows import TextSplit

Content = str | list[list[str]]
"""A text; the turns of a chat as [role, text]; or the two sides of a pair as [["source", …], ["target", …]]."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a source, with its official split, if it has one."""

    name: str
    content: Content
    split: Split | None = None


@dataclass(slots=True)
class _Place:
    """Where a document's bytes stand in the file, its official split, and what must be in one split with it."""

    first: int
    size: int
    split: Split | None
    share: str


@dataclass
class Library:
    """Documents in one flat file at `path`, with an index by content in memory; used as a context."""

    path: Path
    _places: dict[str, _Place] = field(default_factory=dict)

    def __enter__(self) -> Library:
        self._file = self.path.open("w+b")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, document: Document) -> str | None:
        """Keep a document, or return why not: it is empty, no Unicode, or there already.

        Of a content in two official splits the held-out copy counts: tests stay whole and do not leak.
        """
        if is_empty(document.content):
            return "empty"
        try:
            key = content_id(document.content)
        except UnicodeEncodeError:
            return "half a character (a lone surrogate) in it"
        place = self._places.get(key)
        if place is None:
            self.put(key, document.content, document.split, _share(key, document.content))
            return None
        if HELD_OUT[document.split] > HELD_OUT[place.split]:
            place.split = document.split
        return "the same text as another"

    def put(self, key: str, content: Content, split: Split | None, share: str | None = None) -> None:
        """Keep a content by a name of the caller's; those of one `share` come into one split."""
        data = json.dumps(content, ensure_ascii=False).encode("utf-8")
        self._file.seek(0, 2)
        self._places[key] = _Place(self._file.tell(), len(data), split, share or key)
        self._file.write(data)

    def content(self, key: str) -> Content:
        """The content of a document."""
        place = self._places[key]
        self._file.seek(place.first)
        found: Content = json.loads(self._file.read(place.size))
        return found

    def size(self, key: str) -> int:
        """The bytes of a document on disk."""
        return self._places[key].size

    def splits(self, shares: TextSplit) -> dict[Split, list[str]]:
        """The documents of each split, sorted by content, which is a shuffled order that only they decide.

        Official splits are kept; those that the source lacks are cut from the rest by hash alone. Targets of one
        source stay together, in the most held-out split that one of them has: a test asks nothing that was trained on.
        """
        official = {place.split for place in self._places.values()}
        held: dict[str, Split | None] = {}
        for place in self._places.values():
            if HELD_OUT[place.split] >= HELD_OUT[held.get(place.share)]:
                held[place.share] = place.split
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for key in sorted(self._places):
            share = self._places[key].share
            found[split_of(share, held[share], official, shares)].append(key)
        return found


def _share(key: str, content: Content) -> str:
    """The hash of a pair's source; of anything else, its own."""
    return content_id(content[0][1]) if isinstance(content, list) and content[0][0] == "source" else key


def content_id(content: Content) -> str:
    """The sha256 of a text, or of the JSON of a chat or a pair, in hex."""
    data = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return hashlib.sha256(data.encode("utf-8")).hexdigest()


def is_empty(content: Content) -> bool:
    """Whether a text, every turn of a chat, or one side of a pair holds nothing but white space."""
    blank = [not text.strip() for text in texts_of(content)]
    pair = bool(content) and content[0][0] == "source"
    return any(blank) if pair else all(blank)


def texts_of(content: Content) -> Sequence[str]:
    """The texts in a content: itself, the turns of a chat, or both sides of a pair."""
    return [content] if isinstance(content, str) else [text for _, text in content]
