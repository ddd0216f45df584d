"""The terms on which a product is served: what is kept of requests, what is not let out, and how it is computed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from components.errors import UserError
from components.row import Row

Policy = Literal["none", "hash", "full"]
"""What a server keeps of a request: nothing, the hashes of what was asked and what came, or what was asked as well."""
Precision = Literal["fp32", "bf16"]
"""Of plain linear layers and convolutions."""
Labels = Literal["none", "metadata", "signed"]
"""How what a product makes says that a model made it: not at all, in each file's metadata, or signed as well."""


WITHHELD = "withheld"
"""The metric of what a filter does not let out."""


class FilterRow(Row):
    """What a product does not let out: texts with one of `words`, and what the function `refuse` of `code` names.

    `code` is a Python file of the project.
    """

    words: tuple[str, ...] = Field(default=(), max_length=100_000)
    code: Path | None = None


@dataclass(frozen=True)
class Terms:
    """The terms of one product. `code` is the file's absolute path, `code_hash` the sha256 of its content."""

    records: Policy = "hash"
    words: tuple[str, ...] = ()
    code: Path | None = None
    code_hash: str = ""
    precision: Precision = "fp32"
    compile: bool = False
    rows: int | None = None
    labels: Labels = "metadata"
    visible: bool = False

    @property
    def filters(self) -> bool:
        """Whether anything is held back."""
        return bool(self.words or self.code)

    @property
    def usual(self) -> bool:
        """Whether a model computes as it does outside a server."""
        return self.precision == "fp32" and not self.compile

    @property
    def digest(self) -> str:
        """What tells these terms from others."""
        return hashlib.sha256(json.dumps(asdict(self), default=str).encode()).hexdigest()[:16]

    @property
    def filter_digest(self) -> str:
        """What tells what is held back from what others hold back, wherever the file of its function lies."""
        return hashlib.sha256(json.dumps([self.words, self.code_hash]).encode()).hexdigest()[:16]


USUAL = Terms()
"""Those of a product that says nothing."""


def terms_of(root: Path, product: str, records: Policy, row: FilterRow | None) -> Terms:
    """The terms that a row of the project at `root` states; raises `UserError` for a filter that cannot be."""
    if row is None:
        return Terms(records)
    where = f"In products.{product}.filter"
    if not row.words and row.code is None:
        raise UserError(f"{where} there is nothing; give it words, or the file of a function as code.")
    if any(not word.strip() for word in row.words):
        raise UserError(f"{where}, one of the words is empty, which every text holds; leave it out.")
    if row.code is None:
        return Terms(records, row.words)
    path = (root / row.code).resolve()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{where}, the file {path} cannot be read ({error.strerror}); mend its code:."
        ) from error
    return Terms(records, row.words, path, hashlib.sha256(content).hexdigest())
