"""What a dataset of pictures gives beside them: sources, captions, the views of training; kept with every model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import files
from components.errors import UserError
from components.families.family import Shape
from components.modalities.corruption import Corruption
from components.modalities.tokenizer import FILES, TextTokenizer, load_tokenizer
from components.modalities.views import WHOLE, View

CONDITIONS = "conditions.json"
ASSETS = (CONDITIONS, *FILES)
"""The files that lie beside the pictures and in the artifact where there is something to say; none of them must."""


@dataclass(frozen=True)
class Conditions:
    """`corruption` says how a source is made of a picture, `captions` reads prompts; None where there are none.

    `view` is what a training step sees of a stored picture.
    """

    corruption: Corruption | None = None
    captions: TextTokenizer | None = None
    view: View = WHOLE

    @property
    def random(self) -> bool:
        """Whether training rows are changed by chance."""
        made = self.corruption is not None and self.corruption.kind in ("noise", "mask")
        return made or self.view.random

    def agrees(self, other: Conditions) -> bool:
        """Whether sources are made, and captions read, in the same way."""
        mine, theirs = (found.core.to_str() if found else None for found in (self.captions, other.captions))
        return self.corruption == other.corruption and mine == theirs

    def check(self, shape: Shape, where: Path | None) -> None:
        """Raise `UserError` if weights of this `shape` want other conditions than lie in the folder `where`."""
        if self == PLAIN:
            return  # a model that was made without a dataset; what it is asked must be tensors already
        if shape.prompt and (self.captions is None or self.captions.vocabulary != shape.prompt[1]):
            found = "none" if self.captions is None else f"one of {self.captions.vocabulary} tokens"
            raise UserError(
                f"The weights read captions of {shape.prompt[1]} tokens and {where} holds {found}; fetch or train the "
                "model again, with its own tokenizer."
            )
        source = None if self.corruption is None else self.corruption.shape(shape.data)
        if shape.source and source != shape.source:
            raise UserError(
                f"The weights take sources of {shape.source} and {CONDITIONS} in {where} makes {source}; fetch or "
                "train the model again."
            )


PLAIN = Conditions()
"""Of pictures with nothing beside them."""


def load_conditions(folder: Path | None) -> Conditions:
    """The conditions whose files lie in `folder`, none if it has none; raises `UserError` for a damaged file."""
    path = None if folder is None else folder / CONDITIONS
    if folder is None or path is None or not path.is_file():
        return PLAIN
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        corruption = Corruption(**content["corruption"]) if content.get("corruption") else None
        view = View(**content.get("view", {}))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is damaged; prepare the data or fetch the model again.") from error
    captions = load_tokenizer(folder) if (folder / FILES[0]).is_file() else None
    return Conditions(corruption, captions, view)


def save_conditions(folder: Path, conditions: Conditions) -> list[str]:
    """Write the files of `conditions` into `folder` and return their names; none where there is nothing to say."""
    if conditions == PLAIN:
        return []
    content = {
        "corruption": None if conditions.corruption is None else asdict(conditions.corruption),
        "view": asdict(conditions.view),
    }
    files.write(folder / CONDITIONS, json.dumps(content, indent=2, sort_keys=True))
    if conditions.captions is None:
        return [CONDITIONS]
    conditions.captions.save(folder)
    return [*ASSETS]
