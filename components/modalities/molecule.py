"""Molecules: SMILES as rows of tokens, one a row, for families; structures, SMILES, CSV and SDF for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel
from torch import Tensor

from components import files as disk
from components.errors import UserError
from components.families.family import END, Requests, Shape
from components.modalities import chemistry
from components.modalities.designing import MoleculeRequest, designed
from components.modalities.modality import Direction, Maker, Order
from components.modalities.structures import gallery
from components.modalities.text import Text
from components.modalities.tokenizer import FILES

BANDS = "molecule.json"
"""The file that says by which property molecules can be asked for."""
NAMES = ("low", "medium", "high")
"""Of the bands: the lowest, the middle and the highest third of the training molecules."""


@dataclass(frozen=True)
class Bands:
    """The property whose bands begin the rows, and the `edges` between them; none where `by` is ""."""

    by: str = ""
    edges: Sequence[float] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the bands are called, the lowest first; nothing where there are none."""
        return NAMES if self.by else ()

    def of(self, value: float) -> str:
        """The band in which a value of the property lies."""
        return NAMES[sum(value > edge for edge in self.edges)]

    def save(self, folder: Path) -> str:
        """Write what the modality needs into `folder`, and return the file's name."""
        disk.write(folder / BANDS, json.dumps(asdict(self)))
        return BANDS


class Molecule(Text):
    """Rows `END tokens END`, a molecule each, perhaps with the token of its band behind the first `END`."""

    name: ClassVar[str] = "molecule"
    makes: ClassVar[str] = "molecules"
    request: ClassVar[type[BaseModel]] = MoleculeRequest
    media_type: ClassVar[str] = "chemical/x-daylight-smiles"
    extension: ClassVar[str] = ".smi"
    gathered: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, Direction]] = {
        "nats_per_molecule": "lower",
        "validity": "higher",
        "uniqueness": "higher",
        "novelty": "higher",
        "internal_diversity": "higher",
        "similarity_to_nearest": "higher",
        "scaffold_similarity": "higher",
        "scaffold_novelty": "higher",
        "logp_distance": "lower",
        "qed_distance": "lower",
        "sa_distance": "lower",
        "weight_distance": "lower",
        "band_accuracy": "higher",
    }
    assets: ClassVar[tuple[str, ...]] = (*FILES, BANDS)
    suffix: ClassVar[str] = ".png"

    @property
    def random(self) -> bool:
        """A row is a whole molecule: nothing is cut by chance."""
        return False

    @cached_property
    def bands(self) -> Bands:
        """By what molecules can be asked for; raises `UserError` for a damaged file."""
        assert self.folder is not None, "molecules need the folder of their tokenizer"
        path = self.folder / BANDS
        try:
            return Bands(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged; prepare the data or fetch the model again.") from error

    def check(self, shape: Shape) -> None:
        """Raise `UserError` without RDKit, or if the tokenizer has another number of tokens than the weights."""
        chemistry.required()
        super().check(shape)

    def agrees(self, other: Text | Any) -> bool:
        """Whether the tokenizers and the bands are the same."""
        return isinstance(other, Molecule) and super().agrees(other) and self.bands == other.bands

    def requests(self, body: Any, model: Maker, seeds: Sequence[int]) -> Requests:
        """A row a seed, which begins with the band and the prefix that are asked for. Raises `UserError`."""
        return designed(body, self.tokenizer, self.bands.names, model.shape, seeds)

    def order(self, body: Any, model: Maker, seeds: Sequence[int]) -> Order:
        """A molecule a seed, each with the band that was asked for. Raises `UserError`."""
        found = super().order(body, model, seeds)
        return Order(found.requests, found.seeds, found.parts, found.encode, [body.label] * len(seeds))

    def answers(self, body: Any) -> int:
        """`n`."""
        return int(body.n)

    def selects(self, body: Any) -> bool:
        """Whether only valid molecules, or those with a fragment, are wanted."""
        return bool(body.selects)

    def warm(self, shape: Shape) -> BaseModel:
        """Two molecules, by all ways of sampling."""
        return MoleculeRequest(n=2, temperature=0.8, top_k=5, top_p=0.9, seed=0)

    def probe(self, shape: Shape, seed: int) -> BaseModel:
        """Eight molecules as the model itself draws them."""
        return MoleculeRequest(n=8, seed=seed)

    def encode(self, output: Tensor, body: Any) -> list[bytes]:
        """The SMILES of each row behind the prefix that was asked for."""
        return [(body.prefix + text).encode("utf-8") for text in self.texts(output)]

    def picture(self, output: Tensor) -> bytes:
        """The structures of all rows, those that are none in red."""
        return gallery(self.texts(output))


def schema(about: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of prepared molecules; `about` as that of texts.

    `id` is the sha256 of the SMILES as the row writes it, `tokens` are int32 as bytes; `smiles` is the canonical one,
    and `scaffold` its Bemis–Murcko scaffold. The last `fresh` tokens of the row are predicted.
    """
    fields = [pa.field(name, pa.string()) for name in ("id", "smiles", "scaffold")]
    fields += [pa.field("tokens", pa.binary()), pa.field("length", pa.int32()), pa.field("fresh", pa.int32())]
    content = {"modality": "molecule", **about}
    return pa.schema(fields, metadata={"genloom": json.dumps(content, sort_keys=True)})


def row_of(tokens: Sequence[int], band: int | None) -> list[int]:
    """The tokens of a row that holds one molecule, of the band whose token is `band`."""
    return [END, *([] if band is None else [band]), *tokens, END]
