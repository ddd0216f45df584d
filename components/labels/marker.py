"""Marks the files of one version: what the product's row says, none, metadata, or a signature as well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import files
from components.labels.formats import PNG, format_of
from components.labels.statement import SOURCE_TYPE, Statement, Wording, generator
from components.settings import Settings
from components.terms import Terms

if TYPE_CHECKING:
    from components.labels.credentials import Sealer

BESIDE = ".label.json"
"""The end of the name of a statement that lies beside a file which has no place for one."""


@dataclass(frozen=True)
class Marker:
    """Marks what the version of `about` makes; with a `sealer` it signs, where a format has a place for that.

    With `visible` a picture gets a caption beneath, which people see.
    """

    about: Statement
    sealer: Sealer | None = None
    visible: bool = False

    @property
    def slow(self) -> bool:
        """Whether a mark takes milliseconds, so that no loop should wait for it."""
        return self.sealer is not None or self.visible

    @cached_property
    def _wording(self) -> Wording:
        return Wording(self.about)

    def mark(self, file: bytes, media_type: str, seed: int | None) -> tuple[bytes, str]:
        """`file` with its mark, and the hash of its content, which the mark leaves as it is.

        What has no place for a mark (texts, bare levels) comes back as it was.
        """
        if self.visible and media_type == PNG:
            from components.labels.visible import captioned

            file = captioned(file, self.about.name)
        kind = format_of(media_type)
        content = kind.content(file)
        if kind.put is not None:
            file = kind.put(file, self._wording.of(seed, content))
        if self.sealer is not None and kind.sealed:
            file = self.sealer.seal(file, media_type, replace(self.about, seed=seed, content=content))
        return file, content

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """What an HTTP answer says in its head, whatever it holds."""
        return {"x-genloom-source-type": SOURCE_TYPE, "x-genloom-digest": self.about.digest}

    @cached_property
    def field(self) -> Mapping[str, Any]:
        """What a JSON answer says in the field that OpenAI's clients pass over."""
        return {name: value for name, value in asdict(self.about).items() if value not in (None, "")}

    @cached_property
    def field_json(self) -> bytes:
        """`field` as JSON."""
        return json.dumps(self.field, separators=(",", ":")).encode()

    def told(self, contents: Sequence[str]) -> dict[str, Any]:
        """`field` with the hashes of an answer's texts, which have no place for a mark of their own."""
        return {**self.field, "contents": list(contents)}

    def beside(self, file: bytes, media_type: str, seed: int) -> str:
        """The statement in a file of its own, for one that has no place for a mark."""
        told = {**self.field, "seed": seed, "content": format_of(media_type).content(file)}
        return json.dumps(told, indent=2) + "\n"


def lay_beside(marker: Marker | None, path: Path, media_type: str, seed: int) -> None:
    """Write the statement beside a file that has no place for a mark; without marks an older one goes."""
    beside = path.with_name(path.name + BESIDE)
    if marker is None:
        beside.unlink(missing_ok=True)
    else:
        files.write(beside, marker.beside(path.read_bytes(), media_type, seed))


def open_marker(product: str, version: int, digest: str, terms: Terms, settings: Settings) -> Marker | None:
    """What marks the files of a version as its product's `terms` say; None where they say none.

    Raises `UserError` if files are to be signed and there is no key, or nothing that signs.
    """
    if terms.labels == "none":
        return None
    about = Statement(product, version, digest, producer=settings.producer, generator=generator())
    return Marker(about, _sealer(settings, product) if terms.labels == "signed" else None, terms.visible)


def check(product: str, terms: Terms, settings: Settings) -> None:
    """Raise `UserError` if the files of `product` cannot be marked as its terms say."""
    if terms.labels == "signed":
        _sealer(settings, product)


def _sealer(settings: Settings, product: str) -> Sealer:
    from components.labels.credentials import open_sealer

    return open_sealer(settings, product)
