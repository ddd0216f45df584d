"""A dataset seen as a search for settings may see it: where evaluation looks for test rows it finds those of val."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.data.dataset import Dataset, Split
from components.errors import UserError


class Validation(Dataset):
    """A dataset whose `val` split stands in the place of `test`, which is then not to be had."""

    def paths(self, split: Split) -> list[Path]:
        """The files of a split."""
        return super().paths(_instead(split))

    def rows(self, split: Split) -> int:
        """How many rows a split has."""
        return super().rows(_instead(split))


def _instead(split: Split) -> Split:
    return "val" if split == "test" else split


def validation(dataset: Dataset) -> Validation:
    """`dataset` without its test split; raises `UserError` if it has no val split to look at instead."""
    if dataset.rows("val") == 0:
        raise UserError(
            f"The dataset “{dataset.name}” has no val split, and a search must not look at the test split; give val "
            f"a share under split: in datasets.{dataset.name} of params.yaml, and type the command again."
        )
    content = {item.name: getattr(dataset, item.name) for item in dataclasses.fields(dataset)}
    return Validation(**{**content, "details": _details(dataset.details)})


def _details(details: Mapping[str, Any]) -> dict[str, Any]:
    """What a modality counted of each split, with the counts of val where those of test stood."""
    return {
        name: {**value, "test": value["val"]}
        if isinstance(value, Mapping) and {"val", "test"} <= value.keys()
        else value
        for name, value in details.items()
    }
