"""Molecules of a request: drawn on until there are as many as are wanted; for the routes and for the command line."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components import files
from components.errors import FailedError, UserError
from components.labels.formats import PNG, TEXT
from components.labels.marker import lay_beside
from components.modalities import chemistry
from components.modalities.designing import MOST, MoleculeRequest
from components.modalities.structures import described, filed, gallery
from components.serving import client
from components.serving.catalog import SEEDS, Withheld
from components.serving.draw import RECORD, body_of, check_version
from components.serving.making import Made, begin
from components.serving.place import Place

DRAWS, LEAST_DRAWN = 32, 512
"""The most molecules that are drawn for each that is wanted, and the fewest at which a request gives up."""
AT_ONCE = 512
"""Molecules of one request of the command line."""
KINDS = (".smi", ".csv", ".sdf", ".png")
"""The ends of the files that molecules may be written to."""


@dataclass
class Search:
    """Rounds of plain requests until `n` molecules are found that `body` wants, the first of them by their seeds.

    Each round goes on from the seed of the one before, so a round is a request that may be asked alone, and what is
    found does not depend on how large the rounds were.
    """

    body: MoleculeRequest
    seed: int
    drawn: int = 0
    found: list[dict[str, Any]] = field(default_factory=list)

    def next(self) -> MoleculeRequest | None:
        """What is to be drawn next, or None if there is enough, or more would be too much."""
        missing = self.body.n - len(self.found)
        left = max(LEAST_DRAWN, DRAWS * self.body.n) - self.drawn if self.body.selects else missing
        if missing <= 0 or left <= 0 or (self.drawn and not self.body.selects):
            return None
        rate = max(len(self.found), 1) / max(self.drawn, 1)
        count = min(left, MOST, max(missing, round(missing / rate) if self.drawn else missing))
        return self.body.model_copy(update={"n": count, "seed": (self.seed + self.drawn) % 2**63})

    def take(self, made: Sequence[Made]) -> None:
        """Keep of the answers to `next` what is wanted, up to `n`; what lies behind counts as never drawn."""
        part = None if self.body.contains is None else chemistry.pattern(self.body.contains)
        for one in made:
            if len(self.found) == self.body.n:
                return
            self.drawn += 1
            told = _told(one)
            if self._wants(told, part):
                self.found.append(told)

    def _wants(self, told: Mapping[str, Any], part: tuple[chemistry.Mol, ...] | None) -> bool:
        if "withheld" in told or not self.body.selects:
            return True
        if not told["valid"]:
            return False
        return part is None or chemistry.holds(chemistry.read(told["smiles"]), part)

    def answer(self) -> dict[str, Any]:
        """What was found, and how many were drawn for it; raises `UserError` if there is nothing."""
        if not self.found:
            holds = "" if self.body.contains is None else f" and holds “{self.body.contains}”"
            raise UserError(
                f"None of the {self.drawn} molecules that were drawn is valid{holds}; ask otherwise, or of a model "
                "that was trained for longer."
            )
        return {"drawn": self.drawn, "dropped": self.drawn - len(self.found), "data": self.found}


def _told(made: Made) -> dict[str, Any]:
    """One molecule of an answer."""
    label = {} if made.label is None else {"label": made.label}
    if made.content is None:
        return {"smiles": None, "seed": made.seed, **label, "withheld": made.withheld}
    return {**described(made.content.decode("utf-8")), "seed": made.seed, **label}


def first_seed(body: MoleculeRequest) -> int:
    """The seed of a request's first molecule, drawn where it names none."""
    return secrets.randbelow(SEEDS) if body.seed is None else body.seed


@dataclass(frozen=True)
class Molecules:
    """What the command line got: molecules as the route tells them, how many were drawn, and who computed them."""

    place: Place
    seed: int
    drawn: int
    found: Sequence[Mapping[str, Any]]

    @property
    def shown(self) -> list[Mapping[str, Any]]:
        """Those that are not withheld."""
        return [one for one in self.found if "withheld" not in one]


def design(place: Place, number: int, seed: int | None, asked: Mapping[str, Any]) -> Molecules:
    """`number` molecules as `asked` says, some at a time. Raises `UserError`; `FailedError` if all are withheld."""
    given = {name: value for name, value in asked.items() if value not in (None, False)}
    first = secrets.randbelow(SEEDS) if seed is None else seed
    found: list[Mapping[str, Any]] = []
    drawn = 0
    while len(found) < number:
        wanted = min(AT_ONCE, number - len(found))
        body = body_of(MoleculeRequest, {**given, "n": wanted, "seed": (first + drawn) % 2**63})
        answer = _ask(place, body)
        found += answer["data"]
        drawn += answer["drawn"]
        if len(answer["data"]) < wanted:
            break
    if all("withheld" in one for one in found):
        raise FailedError(
            f"The content filter of {place.product} withheld every molecule ({found[0]['withheld']}); ask with "
            "another --seed."
        )
    return Molecules(place, first, drawn, found)


def _ask(place: Place, body: MoleculeRequest) -> dict[str, Any]:
    """The answer to one request, by whoever computes it."""
    if place.loaded is None:
        assert place.url is not None
        content = {"model": place.asked, **body.model_dump(exclude_none=True)}
        try:
            found, version = client.told(place.url, RECORD, content)
        except client.WithheldError as error:
            reason = Withheld.of(str(error)).reason
            return {"drawn": body.n, "data": [{"smiles": None, "withheld": reason}] * body.n}
        check_version(place, version)
        return found
    search = Search(body, first_seed(body))
    while (more := search.next()) is not None:
        making = begin(place.loaded, more)
        output = making.work.result()
        search.take([making.take(row, output) for row in range(making.count)])
    return search.answer()


def write(path: Path, molecules: Molecules) -> list[Path]:
    """Write the file at `path`, and unless it is a picture itself, a picture beside it; says which.

    The picture carries a mark; the others have no place for one, so the statement lies beside.
    """
    marker, picture = molecules.place.marker, gallery([str(one["smiles"]) for one in molecules.shown])
    if marker is not None:
        picture, _ = marker.mark(picture, PNG, molecules.seed)
    if path.suffix.lower() == ".png":
        files.write(path, picture)
        return [path]
    files.write(path, filed(molecules.shown, path.suffix.lower().removeprefix(".")))
    lay_beside(marker, path, TEXT, molecules.seed)
    beside = path.with_suffix(".png")
    files.write(beside, picture)
    return [path, beside]
