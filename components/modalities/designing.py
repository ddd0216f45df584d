"""The body that asks for molecules, and how it becomes rows of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from components.errors import UserError, unknown
from components.families.family import END, Requests, Shape
from components.modalities import chemistry
from components.modalities.smiles import band_token, spelled
from components.modalities.tokenizer import TextTokenizer

Format: TypeAlias = Literal["json", "smi", "csv", "sdf"]
MOST = 1024
"""The most molecules of a request."""


def _fragment(fragment: str) -> str:
    try:
        chemistry.pattern(fragment)
    except UserError as error:
        raise ValueError(str(error).removesuffix(".")) from error
    return fragment


def _prefix(prefix: str) -> str:
    try:
        spelled(prefix)
    except UserError as error:
        raise ValueError(str(error).removesuffix(".")) from error
    return prefix


class MoleculeRequest(BaseModel):
    """What the general route takes for a model of molecules.

    `prefix` is what each SMILES begins with. With `valid_only`, or a fragment in `contains` (SMILES or SMARTS), it is
    drawn on until there are `n` such molecules, or long enough; the answer says how many were drawn. `label` is the
    band of the property that the model was trained to be asked by.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: int = Field(default=1, ge=1, le=MOST)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    prefix: Annotated[str, Field(max_length=1024), AfterValidator(_prefix)] = ""
    label: str | None = Field(default=None, max_length=64)
    temperature: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=0, le=2**31)
    valid_only: bool = False
    contains: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_fragment)] | None = None
    response_format: Format = "json"
    user: str | None = None

    @property
    def selects(self) -> bool:
        """Whether answers are chosen among what is drawn."""
        return self.valid_only or self.contains is not None


def designed(
    body: MoleculeRequest, tokenizer: TextTokenizer, bands: Sequence[str], shape: Shape, seeds: Sequence[int]
) -> Requests:
    """A row a seed. Raises `UserError` for a band or a token that the model does not know, or a prefix too long."""
    prompt = [END, *_band(body.label, tokenizer, bands), *_begun(body.prefix, tokenizer)]
    if len(prompt) >= shape.data[0]:
        raise UserError(
            f"“prefix” has {len(prompt) - 1} tokens and the model's molecules have at most {shape.data[0] - 2}; "
            "shorten it."
        )
    rows = len(seeds)
    return Requests(
        seed=torch.tensor(list(seeds), dtype=torch.int64),
        prompt=torch.tensor(prompt, dtype=torch.int64).expand(rows, -1).clone(),
        options=_options(body, rows),
    )


def _band(label: str | None, tokenizer: TextTokenizer, bands: Sequence[str]) -> list[int]:
    """The token of the band, if one is asked for."""
    if label is None:
        return []
    if not bands:
        raise UserError("This model was trained without bands of a property; leave “label” out.")
    if label not in bands:
        raise unknown("label", label, bands)
    return [tokenizer.id_of(band_token(label))]


def _begun(prefix: str, tokenizer: TextTokenizer) -> list[int]:
    tokens = spelled(prefix)
    for token in tokens:
        if tokenizer.core.token_to_id(token) is None:
            raise UserError(
                f"“prefix” has the token “{token}”, which no molecule of training had; leave it out."
            )
    return tokenizer.encode(prefix)


def _options(body: MoleculeRequest, rows: int) -> dict[str, Any]:
    """The options of sampling that are asked for, of every row."""
    numbers = {"temperature": body.temperature, "top_p": body.top_p}
    found: dict[str, Any] = {
        name: torch.full((rows,), 1.0 if value is None else value, dtype=torch.float32)
        for name, value in numbers.items()
    }
    return {**found, "top_k": torch.full((rows,), body.top_k or 0, dtype=torch.int64)}
