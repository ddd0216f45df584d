"""Molecules for people and for other programs: pictures of structures, and files of SMILES, CSV and SDF."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from components.modalities import chemistry

SIDE, LINE, SMALL, LARGE = 200, 18, 12, 16
"""Pixels: of a structure, of the line below it, of letters there, of letters above all."""
COLUMNS, MOST = 8, 64
"""Of a picture: the structures beside each other, and how many of the first are shown."""
RED, GREY = "#b00020", "#404040"
FIELDS = ("smiles", "valid", "canonical", "logp", "qed", "weight")
"""What is said of a molecule, beside its seed."""
TYPES = {
    "smi": "chemical/x-daylight-smiles",
    "csv": "text/csv; charset=utf-8",
    "sdf": "chemical/x-mdl-sdfile",
}
"""The media types of the files."""


def described(smiles: str) -> dict[str, Any]:
    """What is known of a SMILES: whether a molecule has it, its canonical form, its properties."""
    molecule = chemistry.read(smiles)
    if molecule is None:
        return {"smiles": smiles, "valid": False, "canonical": None}
    numbers = {name: round(of(molecule), 4) for name, of in chemistry.PROPERTIES.items()}
    return {"smiles": smiles, "valid": True, "canonical": chemistry.written(molecule), **numbers}


def filed(molecules: Sequence[Mapping[str, Any]], kind: str) -> bytes:
    """Molecules as `described`, with their `seed`, in a file of a `kind`; SMI and SDF hold the valid ones."""
    if kind == "csv":
        return _table(molecules)
    valid = [one for one in molecules if one["valid"]]
    if kind == "smi":
        return "".join(f"{one['smiles']} {one['seed']}\n" for one in valid).encode()
    return "".join(map(_record, valid)).encode()


def _table(molecules: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO()
    table = csv.DictWriter(stream, (*FIELDS, "seed"), restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({**one, "valid": str(one["valid"]).lower()} for one in molecules)
    return stream.getvalue().encode()


def _record(one: Mapping[str, Any]) -> str:
    """A record of an SDF with coordinates in the plane, named by its seed."""
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    molecule: chemistry.Mol = chemistry.read(one["smiles"])
    rdDepictor.Compute2DCoords(molecule)
    molecule.SetProp("_Name", str(one["seed"]))
    facts = "".join(f">  <{name}>\n{one[name]}\n\n" for name in ("smiles", *chemistry.PROPERTIES))
    return f"{Chem.MolToMolBlock(molecule)}{facts}$$$$\n"


def gallery(
    smiles: Sequence[str], notes: Sequence[str] = (), head: str = "", columns: int = COLUMNS
) -> bytes:
    """A PNG of the structures of the first `MOST` SMILES below `head`, by default how many are valid.

    Below each stands its note, by default its properties; of what is no molecule, the SMILES stands there in red.
    """
    shown = [(one, chemistry.read(one)) for one in smiles[:MOST]]
    columns = max(1, min(columns, len(shown)))
    rows = -(-len(shown) // columns)
    top = LARGE + 2 * (LINE - SMALL)
    page = Pillow.new("RGB", (columns * SIDE, top + rows * (SIDE + LINE)), "white")
    for place, (text, molecule) in enumerate(shown):
        note = notes[place] if notes else ""
        corner = (place % columns * SIDE, top + place // columns * (SIDE + LINE))
        page.paste(_refused(text, note) if molecule is None else _cell(molecule, note), corner)
    valid = sum(molecule is not None for _, molecule in shown)
    font = ImageFont.load_default(LARGE)
    said = head or f"{valid} of {len(shown)} valid"
    ImageDraw.Draw(page).text((8, top // 2), said, GREY, font, anchor="lm")
    return _png(page)


def _cell(molecule: chemistry.Mol, note: str) -> Pillow.Image:
    """A structure with a line below it."""
    from rdkit.Chem.Draw import rdMolDraw2D

    drawer = rdMolDraw2D.MolDraw2DCairo(SIDE, SIDE)
    drawer.drawOptions().fixedBondLength = 30
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, molecule)
    drawer.FinishDrawing()
    cell = Pillow.new("RGB", (SIDE, SIDE + LINE), "white")
    with Pillow.open(io.BytesIO(drawer.GetDrawingText())) as drawn:
        cell.paste(drawn, (0, 0))
    said = note or f"QED {chemistry.qed(molecule):.2f}  logP {round(chemistry.logp(molecule), 1) + 0.0:.1f}"
    _under(cell, said, GREY)
    return cell


def _refused(smiles: str, note: str) -> Pillow.Image:
    """A SMILES that no molecule has, in lines."""
    cell = Pillow.new("RGB", (SIDE, SIDE + LINE), "white")
    font = ImageFont.load_default(SMALL)
    each = max(1, int((SIDE - 24) / font.getlength("M")))
    lines = [smiles[first : first + each] for first in range(0, len(smiles), each)] or ["(nothing)"]
    fitting = (SIDE - 24) // (SMALL + 2)
    text = "\n".join(lines[:fitting] if len(lines) <= fitting else [*lines[: fitting - 1], "…"])
    ImageDraw.Draw(cell).multiline_text((12, 12), text, RED, font, spacing=2)
    _under(cell, note or "invalid", RED)
    return cell


def _under(cell: Pillow.Image, note: str, colour: str) -> None:
    font = ImageFont.load_default(SMALL)
    ImageDraw.Draw(cell).text((SIDE // 2, SIDE + LINE // 2), note, colour, font, anchor="mm")


def _png(page: Pillow.Image) -> bytes:
    stream = io.BytesIO()
    page.save(stream, format="PNG")
    return stream.getvalue()
