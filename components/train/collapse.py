"""Sees in a GAN's reports that its samples have collapsed or its discriminator has won; says what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from components.families.family import Family

LEAST_SPREAD = 0.65
"""On MNIST, GANs that went well are above 0.75 from step 1,000 on; one that lost most classes stood at 0.57."""
MOST_ACCURACY = 0.98
"""One that errs on at most one row in fifty has little to teach; balanced ones on MNIST are right in 70–95%."""
PATIENCE = 1000
"""Steps for which a symptom must last: networks start out collapsed, and most find the data's width by then."""
ALIKE = {
    "diversity": "set model.diversity to {twice:g} (it is {value:g})",
    "r1": "raise model.r1 (it is {value:g})",
    "cycle": "raise model.cycle (it is {value:g})",
    "lr": "lower model.lr (it is {value:g})",
}
ONE_SIDED = {
    "r1": "raise model.r1 (it is {value:g})",
    "dropout": "raise model.dropout (it is {value:g})",
    "balance": "lower model.balance (it is {value:g})",
    "lr": "lower model.lr (it is {value:g})",
}
"""What helps against either, by the field of the family that does it."""


@dataclass
class Symptom:
    """Whether something is ill, believed only when `PATIENCE` steps of reports say so, of either opinion."""

    ill: bool = False
    since: int | None = None

    def begins(self, step: int, bad: bool) -> bool:
        """Take the report at `step`; True at the one that makes an onset certain."""
        if bad == self.ill:
            self.since = None
            return False
        self.since = step if self.since is None else self.since
        if step - self.since < PATIENCE:
            return False
        self.ill, self.since = bad, None
        return bad


class Collapse:
    """Follows `spread` and `accuracy` through the reports of one training; families that log neither are quiet."""

    def __init__(self, family: Family, run: str) -> None:
        self.family, self.run = family, run
        self.alike, self.one_sided = Symptom(), Symptom()

    def see(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Take one report; returns a sentence for each symptom whose onset it makes certain."""
        said = []
        spread, accuracy = metrics.get("spread"), metrics.get("accuracy")
        if spread is not None and self.alike.begins(step, spread < LEAST_SPREAD):
            said.append(
                f"The samples of {self.run} are much alike: at step {step} their spread is {spread:.2f} of the "
                f"data's, and has been below {LEAST_SPREAD} for {PATIENCE} steps, so the generator has collapsed "
                f"onto few modes; {self._mends(ALIKE)}."
            )
        if accuracy is not None and self.one_sided.begins(step, accuracy > MOST_ACCURACY):
            said.append(
                f"The discriminator of {self.run} is nearly always right: at step {step} in {accuracy:.1%} of rows, "
                f"and in more than {MOST_ACCURACY:.0%} for {PATIENCE} steps, so the generator learns little from it; "
                f"{self._mends(ONE_SIDED)}."
            )
        return said

    def replay(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Take the reports of a training that goes on, whose warnings were said."""
        for line in lines:
            self.see(line["step"], line)

    def _mends(self, known: Mapping[str, str]) -> str:
        """The fields of this family that help, in words, the best first."""
        values = {item.name: getattr(self.family, item.name) for item in dataclasses.fields(self.family)}
        found = [
            text.format(value=values[name], twice=2 * values[name] or 1.0)
            for name, text in known.items()
            if name in values
        ]
        return f"{', '.join(found[:-1])} or {found[-1]}" if len(found) > 1 else found[0]
