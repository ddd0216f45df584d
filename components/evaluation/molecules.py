"""Metrics of drawn molecules, as MOSES (Polykovskiy et al. 2020, section 3) and GuacaMol (Brown et al. 2019) have them.

Properties, scaffolds and similarities are of all valid molecules, also where one comes twice. Of statistics that are no
means, the interval is of resampled molecules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from components.evaluation.intervals import Interval, average, resampled, share
from components.evaluation.report import Metric
from components.modalities import chemistry
from components.modalities.molecule import Molecule

RESAMPLES = 200
FEWEST = 20
"""Valid molecules below which properties are not compared."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """SMILES as they were drawn, and the molecules of those that are valid."""

    smiles: Sequence[str]

    @cached_property
    def molecules(self) -> list[chemistry.Mol | None]:
        """A molecule or None for each."""
        return [chemistry.read(one) for one in self.smiles]

    @cached_property
    def valid(self) -> list[chemistry.Mol]:
        """The valid molecules."""
        return [one for one in self.molecules if one is not None]

    @cached_property
    def places(self) -> list[int]:
        """Where among all that was drawn each valid molecule stands."""
        return [place for place, one in enumerate(self.molecules) if one is not None]

    def canonical(self, stereo: bool) -> list[str]:
        """Their canonical SMILES, as the dataset's rows are written."""
        return [chemistry.written(one, stereo) for one in self.valid]

    @cached_property
    def scaffolds(self) -> list[str]:
        """The scaffold of each valid molecule, "" for one without a ring."""
        return [chemistry.scaffold(one) for one in self.valid]

    @cached_property
    def fingerprints(self) -> list[chemistry.Mol]:
        """The fingerprint of each valid molecule."""
        return [chemistry.fingerprint(one) for one in self.valid]

    @cached_property
    def properties(self) -> dict[str, Values]:
        """The properties of the valid molecules, each [V]."""
        measured = chemistry.measured()
        return {name: np.array([of(one) for one in self.valid]) for name, of in measured.items()}


@dataclass(frozen=True)
class Known:
    """What the training data hold: canonical SMILES, and the scaffolds of its molecules."""

    smiles: frozenset[str]
    scaffolds: frozenset[str]
    stereo: bool


def measure(drawn: Found, real: Found, known: Known, seed: int) -> dict[str, Metric]:
    """All metrics of `drawn` that need no model; `real` are held-out molecules to compare with."""
    found: dict[str, Interval | None] = {
        "validity": share(_hits(one is not None for one in drawn.molecules)),
        **_named(drawn, known),
    }
    if len(drawn.valid) >= FEWEST:
        found["internal_diversity"] = diversity(drawn, seed)
        found["similarity_to_nearest"] = nearness(drawn, real)
        found["scaffold_similarity"] = scaffold_similarity(drawn.scaffolds, real.scaffolds, seed)
        found["scaffold_novelty"] = scaffold_novelty(drawn.scaffolds, known)
        for name, values in drawn.properties.items():
            found[f"{name}_distance"] = distance(values, real.properties[name], seed)
    return {
        name: Metric(*interval, better)
        for name, better in Molecule.metrics.items()
        if (interval := found.get(name)) is not None
    }


def _hits(hits: Iterable[bool]) -> torch.Tensor:
    return torch.tensor(list(hits), dtype=torch.float64)


def _named(drawn: Found, known: Known) -> dict[str, Interval | None]:
    """Uniqueness among the valid molecules, and novelty among the different ones."""
    names = drawn.canonical(known.stereo)
    if not names:
        return {}
    places = {name: place for place, name in reversed([*enumerate(names)])}
    first = _hits(places[name] == place for place, name in enumerate(names))
    return {"uniqueness": share(first), "novelty": share(_hits(name not in known.smiles for name in places))}


def diversity(drawn: Found, seed: int) -> Interval:
    """1 − the mean Tanimoto similarity of two of the molecules (IntDiv₁ in MOSES, but for pairs of one with itself)."""
    table = np.array([chemistry.similarities(one, drawn.fingerprints) for one in drawn.fingerprints])
    size = len(table)

    def spread(weights: Values) -> float:
        return float(1 - (weights @ table @ weights - size) / (size * (size - 1)))

    generator = np.random.default_rng(seed)
    draws = [
        spread(np.bincount(generator.integers(size, size=size), minlength=size).astype(np.float64))
        for _ in range(RESAMPLES)
    ]
    return _within(resampled(spread(np.ones(size)), torch.tensor(draws)), 1.0)


def nearness(drawn: Found, real: Found) -> Interval:
    """The mean Tanimoto similarity of a molecule to the nearest real one (SNN in MOSES)."""
    best = [max(chemistry.similarities(one, real.fingerprints)) for one in drawn.fingerprints]
    return _within(average(torch.tensor(best, dtype=torch.float64)), 1.0)


def scaffold_similarity(drawn: Sequence[str], real: Sequence[str], seed: int) -> Interval | None:
    """The cosine between how often each scaffold is there (Scaf in MOSES); molecules without a ring are left out."""
    names = {name: place for place, name in enumerate(sorted({*drawn, *real} - {""}))}
    ours, theirs = (np.array([names[one] for one in rows if one], dtype=np.int64) for rows in (drawn, real))
    if not len(ours) or not len(theirs):
        return None
    generator = np.random.default_rng(seed)

    def cosine(rows: NDArray[np.int64]) -> float:
        one, other = (np.bincount(part, minlength=len(names)).astype(np.float64) for part in (rows, theirs))
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))

    draws = [cosine(ours[generator.integers(len(ours), size=len(ours))]) for _ in range(RESAMPLES)]
    return _within(resampled(cosine(ours), torch.tensor(draws)), 1.0)


def scaffold_novelty(drawn: Sequence[str], known: Known) -> Interval | None:
    """The share of different scaffolds that no training molecule has."""
    different = sorted(set(drawn) - {""})
    return share(_hits(one not in known.scaffolds for one in different)) if different else None


def distance(drawn: Values, real: Values, seed: int) -> Interval:
    """The Wasserstein distance between the values of a property, in its unit."""
    from scipy.stats import wasserstein_distance

    generator = np.random.default_rng(seed)

    def again(values: Values) -> Values:
        return values[generator.integers(len(values), size=len(values))]

    draws = [wasserstein_distance(again(drawn), again(real)) for _ in range(RESAMPLES)]
    value, low, high = resampled(float(wasserstein_distance(drawn, real)), torch.tensor(draws))
    return value, max(0.0, low), high


def _within(found: Interval, most: float) -> Interval:
    value, low, high = found
    return value, max(0.0, low), min(most, high)


def accuracy(
    smiles: Sequence[str], wanted: Sequence[str], of: Callable[[float], str], measure: str
) -> Interval:
    """The share of SMILES that are valid and lie in the band that was `wanted`."""
    hits = []
    for one, band in zip(smiles, wanted, strict=True):
        molecule = chemistry.read(one)
        hits.append(molecule is not None and of(chemistry.PROPERTIES[measure](molecule)) == band)
    return share(_hits(hits))


def facts(sets: Mapping[str, Found]) -> dict[str, dict[str, float]]:
    """What is neither better nor worse: the mean of each property, and the share of the commonest scaffold."""
    names = chemistry.measured()
    means = {
        f"mean_{name}": {column: float(of.properties[name].mean()) for column, of in sets.items() if of.valid}
        for name in names
    }
    common = {
        column: Counter(of.scaffolds).most_common(1)[0][1] / len(of.valid)
        for column, of in sets.items()
        if of.valid
    }
    return {**means, "commonest_scaffold": common}
