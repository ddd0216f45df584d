"""What RDKit knows of molecules; it is imported where it is needed, as only molecules need it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from components.errors import UserError

Mol: TypeAlias = Any
"""A molecule of RDKit."""
RADIUS, BITS = 2, 1024
"""Of Morgan fingerprints, as MOSES takes them (Polykovskiy et al. 2020, section 3)."""


def required() -> None:
    """Raise `UserError` where RDKit is not installed."""
    try:
        import rdkit  # noqa: F401
    except ImportError as error:
        raise UserError(
            "Molecules need RDKit, which is not installed; type pip install 'genloom[molecules]'."
        ) from error


def version() -> str:
    """RDKit's version, on which the canonical SMILES depends. Raises `UserError` where there is none."""
    required()
    from rdkit import rdBase

    return str(rdBase.rdkitVersion)


def read(smiles: str) -> Mol | None:
    """The molecule of a SMILES, or None if it has none: a syntax, a valence or a ring that cannot be, no atom."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        found = Chem.MolFromSmiles(smiles)
    return found if found is not None and found.GetNumAtoms() else None


def written(molecule: Mol, stereo: bool = True) -> str:
    """The canonical SMILES; without `stereo`, also without isotopes."""
    from rdkit import Chem

    return str(Chem.MolToSmiles(molecule, isomericSmiles=stereo))


def variants(smiles: str, count: int, seed: int) -> list[str]:
    """Up to `count` other SMILES of a molecule, each begun at another atom (Arús-Pous et al. 2019)."""
    from rdkit import Chem

    found = Chem.MolToRandomSmilesVect(read(smiles), count, randomSeed=seed % (2**31 - 1) + 1)
    return sorted({str(one) for one in found} - {smiles})


def largest(molecule: Mol) -> Mol:
    """The fragment with the most atoms, of equals the heaviest."""
    from rdkit import Chem

    parts = Chem.GetMolFrags(molecule, asMols=True)
    if len(parts) == 1:
        return molecule
    return max(parts, key=lambda part: (part.GetNumAtoms(), weight(part), written(part)))


def scaffold(molecule: Mol) -> str:
    """The Bemis–Murcko scaffold (1996) without stereochemistry: rings and what links them; "" without a ring."""
    from rdkit.Chem.Scaffolds import MurckoScaffold

    try:
        return written(MurckoScaffold.GetScaffoldForMol(molecule), stereo=False)
    except (ValueError, RuntimeError):  # a scaffold that has no valid structure of its own
        return ""


def logp(molecule: Mol) -> float:
    """The logarithm of the octanol–water partition coefficient (Wildman & Crippen 1999)."""
    from rdkit.Chem import Crippen

    return float(Crippen.MolLogP(molecule))


def qed(molecule: Mol) -> float:
    """How like a drug it is, from 0 to 1 (Bickerton et al. 2012)."""
    from rdkit.Chem import QED

    return float(QED.qed(molecule))


def weight(molecule: Mol) -> float:
    """The molecular weight in g/mol."""
    from rdkit.Chem import Descriptors

    return float(Descriptors.MolWt(molecule))


def accessibility(molecule: Mol) -> float:
    """The score of synthetic accessibility, from 1 (easy) to 10 (Ertl & Schuffenhauer 2009)."""
    return float(_scorer().calculateScore(molecule))


@cache
def _scorer() -> Any:
    """The module of RDKit's contributions that has the score, which no package of its own holds."""
    spec = importlib.util.spec_from_file_location("genloom_sascorer", _scores())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _scores() -> Path:
    from rdkit import RDConfig

    return Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"


def measured() -> dict[str, Callable[[Mol], float]]:
    """The properties that an evaluation compares; the score of accessibility where RDKit brings it along."""
    return {**PROPERTIES, **({"sa": accessibility} if _scores().is_file() else {})}


PROPERTIES: Mapping[str, Callable[[Mol], float]] = {"logp": logp, "qed": qed, "weight": weight}
"""What an answer says of each molecule."""


def fingerprint(molecule: Mol) -> Any:
    """The Morgan fingerprint as RDKit's vector of bits."""
    return _generator().GetFingerprint(molecule)


@cache
def _generator() -> Any:
    from rdkit.Chem import rdFingerprintGenerator

    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def similarities(one: Any, others: list[Any]) -> list[float]:
    """The Tanimoto similarity of a fingerprint to each of `others`."""
    from rdkit import DataStructs

    return list(DataStructs.BulkTanimotoSimilarity(one, others))


def pattern(fragment: str) -> tuple[Mol, ...]:
    """What a molecule must hold one of: the fragment as SMARTS, and as SMILES, whose rings may be written kekulized.

    Raises `UserError` for what is neither.
    """
    from rdkit import Chem, rdBase

    found: list[Mol | None] = []
    if not any(letter.isspace() for letter in fragment):
        with rdBase.BlockLogs():
            found = [Chem.MolFromSmarts(fragment), read(fragment)]
    readings = tuple(one for one in found if one is not None and one.GetNumAtoms())
    if not readings:
        raise UserError(f"“{fragment}” is neither SMILES nor SMARTS of a fragment; mend it.")
    return readings


def holds(molecule: Mol, readings: tuple[Mol, ...]) -> bool:
    """Whether one of the `readings` of a `pattern` is a part of a molecule."""
    return any(bool(molecule.HasSubstructMatch(part)) for part in readings)
