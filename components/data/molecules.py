"""Molecules from a source to Parquet: each once in its canonical form, split, a tokenizer, rows, a picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from components.data.dataset import SPLITS, Split, file_hash
from components.data.documents import content_id
from components.data.example import Dropped, Progress
from components.data.molecule_files import Structure, open_molecules
from components.data.reading import check_splits
from components.data.report import Tally, Written
from components.data.spool import HELD_OUT, Column, split_of, write_columns
from components.modalities import chemistry
from components.modalities.molecule import BANDS, NAMES, Bands, row_of, schema
from components.modalities.smiles import TOKEN, band_token, is_spelled, train_smiles
from components.modalities.structures import gallery
from components.modalities.tokenizer import FILES, TextTokenizer
from components.molecule_rows import MoleculeRow
from components.project import Project
from components.row import Split as Shares

NOUN = "molecule"
SHOWN = 32
"""The molecules in the preview."""
ROW_BYTES = 4
"""Bytes of a token on disk."""


@dataclass(slots=True)
class Kept:
    """A molecule by its canonical SMILES; those of one `share` come into one split."""

    smiles: str
    scaffold: str
    share: str
    split: Split | None


@dataclass
class Shelf:
    """The molecules of a source, each once, by the sha256 of its canonical SMILES."""

    by_scaffold: bool
    molecules: dict[str, Kept] = field(default_factory=dict)

    def add(self, smiles: str, scaffold: str, split: Split | None) -> str | None:
        """Keep a molecule, or return why not; of one in two official splits the held-out copy counts."""
        key = content_id(smiles)
        known = self.molecules.get(key)
        if known is None:
            share = content_id(scaffold) if self.by_scaffold and scaffold else key
            self.molecules[key] = Kept(smiles, scaffold, share, split)
            return None
        if HELD_OUT[split] > HELD_OUT[known.split]:
            known.split = split
        return "the same molecule as another"

    def splits(self, shares: Shares) -> dict[Split, list[str]]:
        """The molecules of each split in the order of their hashes, which shuffles them; official splits are kept."""
        official = {one.split for one in self.molecules.values()}
        held: dict[str, Split | None] = {}
        for one in self.molecules.values() if self.by_scaffold else ():
            if HELD_OUT[one.split] >= HELD_OUT[held.get(one.share)]:
                held[one.share] = one.split
        found: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for key, one in sorted(self.molecules.items()):
            found[split_of(one.share, held.get(one.share, one.split), official, shares)].append(key)
        return found


@dataclass(frozen=True)
class Line:
    """A row to be written: its id, the molecule, its tokens."""

    key: str
    molecule: Kept
    tokens: Sequence[int]


def write_molecules(
    project: Project, name: str, row: MoleculeRow, folder: Path, progress: Progress
) -> Written:
    """Read the molecules of `row` and write the splits, tokenizer and `preview.png` into `folder`.

    Raises `UserError` for what cannot be read, or too little of it.
    """
    chemistry.required()
    files = open_molecules(project, row, progress)
    shelf, tally = Shelf(row.hold_out == "scaffold"), Tally()
    for found in files.structures(name, progress):
        tally.read += 1
        fault = found.reason if isinstance(found, Dropped) else _keep(shelf, found, row)
        if fault is not None:
            tally.drop(found.name, fault)
        if len(shelf.molecules) == row.limit:
            break
    splits = shelf.splits(row.split)
    check_splits(name, row.split, splits, tally, NOUN)
    forms = _forms(shelf, splits["train"], row.variants)
    bands = _bands(name, row, [shelf.molecules[key].smiles for key in splits["train"]], progress)
    tokenizer = train_smiles(chain.from_iterable(forms.values()), bands.names)
    _leave_out_unknown(shelf, splits, tokenizer, tally)
    check_splits(name, row.split, splits, tally, NOUN)
    lines = {
        split: list(_lines(shelf, keys, forms if split == "train" else {}, tokenizer, bands, row.context))
        for split, keys in splits.items()
    }
    tokenizer.save(folder)
    bands.save(folder)
    return _write(folder, name, row, _Draft(tokenizer, bands, splits, lines), tally, files.ignored)


def _keep(shelf: Shelf, found: Structure, row: MoleculeRow) -> str | None:
    """Put a molecule on the shelf as the row writes it, or say why not."""
    molecule = chemistry.read(found.smiles)
    if molecule is None:
        return "no valid molecule"
    if row.fragments == "largest":
        molecule = chemistry.largest(molecule)
    smiles = chemistry.written(molecule, row.stereo == "keep")
    if "*" in smiles or not is_spelled(smiles):
        return "an atom that is no element"
    if len(TOKEN.findall(smiles)) > _most(row):
        return "longer than the context"
    again = chemistry.read(smiles)
    if again is None:
        return "no valid molecule as it would be written"
    return shelf.add(smiles, chemistry.scaffold(again), found.split)


def _most(row: MoleculeRow) -> int:
    """The most tokens of a molecule."""
    return row.context - (3 if row.bands else 2)


def _forms(shelf: Shelf, keys: Sequence[str], variants: int) -> dict[str, list[str]]:
    """The SMILES by which each training molecule is written, the canonical one first."""
    found = {}
    for key in keys:
        smiles = shelf.molecules[key].smiles
        others = chemistry.variants(smiles, variants, int(key[:8], 16)) if variants else []
        found[key] = [smiles, *filter(is_spelled, others)]
    return found


def _bands(name: str, row: MoleculeRow, smiles: Sequence[str], progress: Progress) -> Bands:
    """The thirds of the property among the training molecules, or no bands."""
    if row.bands is None:
        return Bands()
    values = []
    for place, one in enumerate(smiles, start=1):
        values.append(chemistry.PROPERTIES[row.bands](chemistry.read(one)))
        progress(f"{name} (molecules measured)", place, len(smiles))
    edges = np.quantile(values, [place / len(NAMES) for place in range(1, len(NAMES))])
    return Bands(row.bands, [round(float(edge), 6) for edge in edges])


def _leave_out_unknown(
    shelf: Shelf, splits: Mapping[Split, list[str]], tokenizer: TextTokenizer, tally: Tally
) -> None:
    """Take held-out molecules away that have a token which no training molecule has: no model could write them."""
    known = set(tokenizer.core.get_vocab())
    for split in ("val", "test"):
        wrong = {
            key for key in splits[split] if not known.issuperset(TOKEN.findall(shelf.molecules[key].smiles))
        }
        for key in sorted(wrong):
            tally.drop(shelf.molecules[key].smiles, "held out, with a token that no training molecule has")
        splits[split][:] = [key for key in splits[split] if key not in wrong]


def _lines(
    shelf: Shelf,
    keys: Sequence[str],
    forms: Mapping[str, Sequence[str]],
    tokenizer: TextTokenizer,
    bands: Bands,
    context: int,
) -> Iterator[Line]:
    """The rows of some molecules in each of their forms, but for forms that do not fit; sorted by id."""
    written = [(key, form) for key in keys for form in forms.get(key, [shelf.molecules[key].smiles])]
    encoded = tokenizer.encode_all([form for _, form in written])
    labels = {key: _label(shelf.molecules[key].smiles, tokenizer, bands) for key in keys}
    lines = [
        Line(content_id(form), shelf.molecules[key], row_of(tokens, labels[key]))
        for (key, form), tokens in zip(written, encoded, strict=True)
    ]
    yield from sorted((line for line in lines if len(line.tokens) <= context), key=lambda line: line.key)


def _label(smiles: str, tokenizer: TextTokenizer, bands: Bands) -> int | None:
    """The token of the band in which a molecule lies."""
    if not bands.by:
        return None
    return tokenizer.id_of(band_token(bands.of(chemistry.PROPERTIES[bands.by](chemistry.read(smiles)))))


@dataclass(frozen=True)
class _Draft:
    """What is to be written."""

    tokenizer: TextTokenizer
    bands: Bands
    splits: Mapping[Split, Sequence[str]]
    lines: Mapping[Split, Sequence[Line]]

    @property
    def given(self) -> int:
        """The tokens of a row that a held-out one is given: END, and the band."""
        return 2 if self.bands.by else 1

    def longest(self) -> int:
        """The tokens of the longest row."""
        return max(len(line.tokens) for lines in self.lines.values() for line in lines)

    def columns(self, split: Split) -> dict[str, Column]:
        """What makes the columns of a split, but for the ids."""
        rows = {line.key: line for line in self.lines[split]}

        def column(kind: pa.DataType, of: Any) -> Column:
            return lambda keys: pa.array([of(rows[key]) for key in keys], kind)

        return {
            "smiles": column(pa.string(), lambda line: line.molecule.smiles),
            "scaffold": column(pa.string(), lambda line: line.molecule.scaffold),
            "tokens": column(pa.binary(), lambda line: np.asarray(line.tokens, "<i4").tobytes()),
            "length": column(pa.int32(), lambda line: len(line.tokens)),
            "fresh": column(pa.int32(), lambda line: len(line.tokens) - self.given),
        }

    def predicted(self, split: Split) -> int:
        """How many tokens of a split are predicted."""
        return sum(len(line.tokens) - self.given for line in self.lines[split])

    def revision(self, shape: Mapping[str, Any], assets: Mapping[str, str]) -> str:
        """The sha256 of what the dataset is."""
        digest = hashlib.sha256(json.dumps([NOUN, dict(shape), dict(assets)]).encode())
        for split, lines in self.lines.items():
            for line in lines:
                digest.update(json.dumps([split, line.key, line.molecule.smiles, *line.tokens]).encode())
        return digest.hexdigest()


def _write(
    folder: Path, name: str, row: MoleculeRow, draft: _Draft, tally: Tally, ignored: set[str]
) -> Written:
    """Write the rows and the preview."""
    about = {"name": name, "licence": row.licence, "source": row.source}
    vocabulary = draft.tokenizer.vocabulary
    shape = {"shape": [row.context], "vocabulary": vocabulary, "prompt": [row.context, vocabulary]}
    longest = draft.longest()
    arrow = schema({**about, **shape, "longest": longest})
    files = {}
    for split, lines in draft.lines.items():
        keys = [line.key for line in lines]
        for path, count in write_columns(
            folder / split, keys, arrow, draft.columns(split), ROW_BYTES * longest
        ):
            files[f"{split}/{path.name}"] = {"rows": count, "sha256": file_hash(path)}
    assets = {asset: file_hash(folder / asset) for asset in (*FILES, BANDS)}
    manifest = {
        **about,
        "modality": row.modality,
        "revision": draft.revision(shape, assets),
        **shape,
        "classes": [],
        "files": files,
        "assets": assets,
        "details": {
            "rdkit": chemistry.version(),
            "stereo": row.stereo,
            "molecules": {split: len(keys) for split, keys in draft.splits.items()},
            "tokens": {split: draft.predicted(split) for split in SPLITS},
        },
    }
    shown = list(dict.fromkeys(line.molecule.smiles for line in draft.lines["train"]))[:SHOWN]
    (folder / "preview.png").write_bytes(gallery(shown))
    report = {
        "dataset": name,
        "revision": manifest["revision"],
        "read": tally.read,
        "kept": tally.read - tally.counts.total(),
        "dropped": tally.dropped(),
        "ignored_columns": sorted(ignored),
        "vocabulary": vocabulary,
        "bands": {"property": draft.bands.by, "edges": list(draft.bands.edges)} if draft.bands.by else None,
        "splits": {split: _count(draft, split) for split in SPLITS},
    }
    return Written(manifest, report)


def _count(draft: _Draft, split: Split) -> dict[str, Any]:
    """What the report says of a split."""
    lines = draft.lines[split]
    return {
        "rows": len(lines),
        "molecules": len(draft.splits[split]),
        "scaffolds": len({line.molecule.scaffold for line in lines} - {""}),
        "tokens": draft.predicted(split),
    }
