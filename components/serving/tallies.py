"""What every replica has seen of a trial, in a small file of its own in the shared folder: for all to add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from components import files
from components.promotion.tally import Tally, together
from components.settings import Settings


@dataclass(frozen=True)
class Seen:
    """What the replica `replica` has seen of the trial that the ledger's line with the hash `turn` began."""

    turn: str
    replica: str
    champion: Tally
    challenger: Tally


SEEN = TypeAdapter(Seen)


def write(settings: Settings, product: str, seen: Seen) -> None:
    """Put `seen` in the place of what the replica wrote before."""
    path = _folder(settings, product) / f"{seen.turn[:16]}-{seen.replica}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, SEEN.dump_json(seen))


def read(settings: Settings, product: str, turn: str) -> list[Seen]:
    """What all replicas have written about a trial; those that have ended, too."""
    found = []
    for path in sorted(_folder(settings, product).glob(f"{turn[:16]}-*.json")):
        try:
            found.append(SEEN.validate_json(path.read_bytes()))
        except (OSError, ValidationError):  # one that is just being removed, or of another release
            continue
    return found


def forget_others(settings: Settings, product: str, turn: str) -> None:
    """Remove what was written about the product's trials before this one."""
    for path in _folder(settings, product).glob("*.json"):
        if not path.name.startswith(turn[:16]):
            path.unlink(missing_ok=True)


def sides(seen: Sequence[Seen]) -> tuple[Tally, Tally]:
    """The champion's and the challenger's tally over all replicas."""
    return together([one.champion for one in seen]), together([one.challenger for one in seen])


def _folder(settings: Settings, product: str) -> Path:
    return settings.shared / "trials" / product
