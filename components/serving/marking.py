"""What is let out of a served version: past the product's filter, with its mark, and its hash kept."""

from __future__ import annotations

from collections.abc import Iterable

from components.labels.formats import text_content
from components.serving.catalog import Loaded, Withheld, seen
from components.serving.records import ASKING


def let_out(loaded: Loaded, file: bytes, seed: int, media_type: str | None = None) -> bytes | Withheld:
    """`file` of `media_type`, by default the modality's, with its mark, unless the filter does not let it out."""
    found = seen(loaded, file, media_type)
    return found if isinstance(found, Withheld) else marked(loaded, found, seed, media_type)


def marked(loaded: Loaded, file: bytes, seed: int, media_type: str | None = None) -> bytes:
    """`file` with the mark of the version that made it; of what a server gives out the hash is kept.

    Of files that are gathered in an answer the hash is kept by `keep`, once it is known what becomes of them.
    """
    if loaded.marker is None or loaded.model.modality.gathered:
        return file
    file, content = loaded.marker.mark(file, media_type or loaded.model.modality.media_type, seed)
    _keep(loaded, content, seed)
    return file


def keep(loaded: Loaded, texts: Iterable[str], seed: int) -> list[str]:
    """The hashes of an answer's texts, of which row i has seed + i; a server keeps them. Nothing without marks."""
    if loaded.marker is None:
        return []
    contents = [text_content(text.encode("utf-8", "surrogatepass")) for text in texts]
    for row, content in enumerate(contents):
        _keep(loaded, content, (seed + row) % 2**63)
    return contents


def _keep(loaded: Loaded, content: str, seed: int) -> None:
    asking = ASKING.get()
    if asking is not None and loaded.journal is not None:
        loaded.journal.add(content, loaded.served.version, seed, asking.request)
