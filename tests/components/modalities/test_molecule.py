"""SMILES as tokens, what RDKit says of molecules, files and pictures of them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from PIL import Image
from rdkit import RDConfig

from components.errors import UserError
from components.modalities import chemistry
from components.modalities.molecule import Bands
from components.modalities.smiles import is_spelled, spelled, train_smiles
from components.modalities.structures import RED, SIDE, gallery
from components.modalities.tokenizer import load_tokenizer

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
NCI = [
    line.split()[0] for line in (Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi").read_text().splitlines()
]


def test_tokens_are_atoms_bonds_branches_and_rings() -> None:
    assert spelled("[13C@@H](Cl)(Br)%12/C=C\\c1%(123)[nH]1") == [
        *("[13C@@H]", "(", "Cl", ")", "(", "Br", ")", "%12", "/", "C", "=", "C", "\\", "c", "1", "%(123)"),
        *("[nH]", "1"),
    ]
    assert all(is_spelled(one) for one in NCI)
    for wrong in ("C[C@", "C{C", "Cx", "C C", "%1"):
        assert not is_spelled(wrong)
        with pytest.raises(UserError, match="no token begins at"):
            spelled(wrong)


def test_a_tokenizer_gives_back_what_it_was_given(tmp_path: Path) -> None:
    tokenizer = train_smiles(NCI, ("low", "high"))
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.core.to_str() == tokenizer.core.to_str()
    for smiles, tokens in zip(NCI, loaded.encode_all(NCI), strict=True):
        assert [loaded.core.id_to_token(token) for token in tokens] == spelled(smiles)
        assert loaded.decode(tokens) == smiles
    assert [loaded.core.id_to_token(number) for number in range(4)] == [
        "<|end|>",
        "<|unknown|>",
        "<|low|>",
        "<|high|>",
    ]


def test_what_is_said_of_aspirin() -> None:
    aspirin = chemistry.read(ASPIRIN)
    assert chemistry.written(chemistry.read("OC(=O)c1ccccc1OC(C)=O")) == ASPIRIN
    assert chemistry.scaffold(aspirin) == "c1ccccc1"
    assert chemistry.scaffold(chemistry.read("CCO")) == ""
    assert chemistry.weight(aspirin) == pytest.approx(180.16, abs=0.01)
    assert chemistry.logp(aspirin) == pytest.approx(1.31, abs=0.01)
    assert chemistry.qed(aspirin) == pytest.approx(0.55, abs=0.01)
    assert chemistry.measured()["sa"](aspirin) == pytest.approx(1.58, abs=0.01)
    assert chemistry.written(chemistry.largest(chemistry.read("[Na+].CC(=O)[O-]"))) == "CC(=O)[O-]"
    assert chemistry.similarities(chemistry.fingerprint(aspirin), [chemistry.fingerprint(aspirin)]) == [1.0]


@pytest.mark.parametrize("wrong", ["", "C(", "C1CC", "CN(C)(C)(C)C", "c1cccc1", "Q"])
def test_what_is_no_molecule(wrong: str) -> None:
    assert chemistry.read(wrong) is None


def test_other_forms_are_of_the_same_molecule() -> None:
    forms = chemistry.variants(ASPIRIN, 8, 5)
    assert forms == chemistry.variants(ASPIRIN, 8, 5)
    assert len(forms) > 3
    assert ASPIRIN not in forms
    assert {chemistry.written(chemistry.read(one)) for one in forms} == {ASPIRIN}


def test_without_rdkit_one_sentence_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(UserError, match=r"^Molecules need RDKit, .* pip install 'genloom\[molecules\]'\.$"):
        chemistry.required()


def test_bands_lie_between_their_edges() -> None:
    bands = Bands("qed", (0.4, 0.7))
    assert [bands.of(value) for value in (0.1, 0.4, 0.5, 0.7, 0.9)] == [
        "low",
        "low",
        "medium",
        "medium",
        "high",
    ]
    assert Bands().names == ()


def test_a_picture_shows_structures_and_what_is_none_in_red() -> None:
    def colours(*smiles: str) -> tuple[tuple[int, int], set[tuple[int, int, int]]]:
        with Image.open(io.BytesIO(gallery(smiles, columns=2))) as page:
            return page.size, {colour for _, colour in page.convert("RGB").getcolors(2**20) or ()}

    red = tuple(int(RED[place : place + 2], 16) for place in (1, 3, 5))
    size, found = colours(ASPIRIN, "CCO", "CCN")
    assert size[0] == 2 * SIDE
    assert size[1] > 2 * SIDE
    assert (0, 0, 0) in found
    assert red not in found
    assert red in colours(ASPIRIN, "CC(C")[1]
