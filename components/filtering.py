"""Content filters: what a product does not let out, by its words and by a function of the project's own."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from components.errors import UserError
from components.terms import Terms

log = logging.getLogger(__name__)
Refuse: TypeAlias = Callable[[bytes, str], str | None]
"""Gets a file and its media type (text/plain is in UTF-8); says why it is not let out, or None."""


class ContentFilter:
    """Finds what is not let out; `withheld` counts it.

    Words are found in any case, and only as whole words where they begin or end with a letter or digit of ASCII.
    """

    def __init__(self, terms: Terms) -> None:
        """Raises `UserError` if the project's code cannot be used."""
        self.withheld = 0
        self.reach = max(map(len, terms.words), default=-1) + 1
        self.code = None if terms.code is None else _function(terms.code)
        self._words = re.compile("|".join(map(_whole, terms.words)), re.IGNORECASE) if terms.words else None
        self._lock = Lock()

    def word(self, text: str, since: int = 0, whole: bool = True) -> int | None:
        """Where the first word that is not let out begins in `text`, from character `since` on.

        Where `text` is not `whole`, what stands at its very end may still become a longer word.
        """
        found = None if self._words is None else self._words.search(text, since)
        return None if found is None or not (whole or found.end() < len(text)) else found.start()

    def refuses(self, content: bytes, media_type: str) -> str | None:
        """Why a file is not let out, or None; a filter that fails lets nothing out."""
        if media_type.startswith("text/") and self.word(content.decode("utf-8", "replace")) is not None:
            return "it holds a word that is not let out"
        if self.code is None:
            return None
        try:
            return self.code(content, media_type)
        except Exception:
            log.exception("the content filter failed")
            return "the content filter failed"

    def count(self) -> None:
        """Note that something was withheld."""
        with self._lock:
            self.withheld += 1


def open_filter(terms: Terms) -> ContentFilter | None:
    """The filter of a product, if it has one. Raises `UserError` if the project's code cannot be used."""
    return ContentFilter(terms) if terms.filters else None


def _whole(word: str) -> str:
    """A pattern for `word` that does not find it inside longer words of ASCII."""
    before = r"(?<![A-Za-z0-9_])" if re.match(r"[A-Za-z0-9_]", word) else ""
    after = r"(?![A-Za-z0-9_])" if re.search(r"[A-Za-z0-9_]\Z", word) else ""
    return f"{before}{re.escape(word)}{after}"


def _function(path: Path) -> Refuse:
    """The function `refuse` of the file at `path`."""
    spec = importlib.util.spec_from_file_location(f"genloom_filter_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"The filter {path} is no Python file; name one that ends with .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a person's own code may raise anything
        raise UserError(
            f"The filter {path} cannot be loaded ({type(error).__name__}: {error}); mend it."
        ) from error
    found: Refuse | None = getattr(module, "refuse", None)
    if not callable(found):
        raise UserError(f"The filter {path} has no function refuse(content, media_type); add it.")
    return found
