"""The rows of datasets of molecules: where they come from, how they are written, how they are held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from components.row import DatasetRow, Part, RemoteFile, Split, check_place

Property = Literal["qed", "logp", "weight"]
"""A number of a molecule by which it can be asked for."""


class MoleculeRow(DatasetRow):
    """What every source of molecules has in common: how they are written, which are kept, how they are held out.

    `context` is T, the tokens of a row; a molecule has at most T − 2 of them (T − 3 with `bands`). `stereo: drop`
    writes them without stereochemistry and isotopes. `fragments: largest` keeps of salts and mixtures the part with
    the most atoms. With `hold_out: scaffold`, molecules of one Bemis–Murcko scaffold stand in one split. `variants`
    are further SMILES of each training molecule, begun at other atoms. `bands` is the property whose lowest, middle
    and highest third can be asked for. `limit` is the most molecules that are read.
    """

    modality: Literal["molecule"] = "molecule"
    split: Split = Split()
    context: int = Field(default=128, ge=8, le=2048)
    stereo: Literal["keep", "drop"] = "keep"
    fragments: Literal["all", "largest"] = "all"
    hold_out: Literal["content", "scaffold"] = "content"
    variants: int = Field(default=0, ge=0, le=64)
    bands: Property | None = None
    limit: int | None = Field(default=None, ge=1)


class NciRow(MoleculeRow):
    """The first 5,000 compounds of the NCI's open database, which RDKit brings along."""

    source: Literal["nci"]


class MoleculeFilesRow(MoleculeRow):
    """SMILES, CSV, Parquet and SDF at `path`, a file or a folder, or `files` by URL: `all`, or official splits.

    `smiles` is the column of a table, by default the one of that name in any case; `official` a column that says of
    each molecule to which split it belongs.
    """

    source: Literal["molecules"]
    path: str | None = None
    files: Mapping[Part, RemoteFile] = {}
    smiles: str | None = None
    official: str | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        check_place(self.path, self.files)
        return self
