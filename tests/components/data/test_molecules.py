"""Molecules: every kind of file, every reason to leave one out, splits, and what is prepared of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from components.data.add import describe, goal
from components.data.dataset import Batches, Dataset, Position
from components.data.describe import held, is_molecules
from components.data.molecules import Shelf
from components.data.prepare import prepare
from components.data.stages import ensure_stage
from components.data.survey import survey
from components.errors import UserError
from components.families.family import END, NOTHING
from components.modalities import chemistry
from components.modalities.molecule import Molecule
from components.project import Project
from components.row import Split as Shares

Bare = Callable[[dict[str, Any]], Project]
SPLIT = {"val": 0.25, "test": 0.25}
ALCOHOLS = ["C" * length + "O" for length in range(1, 25)]
RINGS = [f"{'C' * length}c1ccccc1" for length in range(12)] + [
    f"{'C' * length}C1CCNC1" for length in range(12)
]


def mine(bare: Bare, **fields: Any) -> Project:
    row = {"source": "molecules", "path": "raw", "split": SPLIT, "context": 40, **fields}
    return bare({"mine": row})


def made(project: Project, name: str = "mine") -> tuple[Dataset, dict[str, Any]]:
    dataset = prepare(project, name, project.prepared / name)
    return dataset, json.loads((dataset.folder / "report.json").read_text())


def rows(dataset: Dataset, split: str) -> dict[str, list[Any]]:
    return dict(pq.read_table(dataset.folder / split).to_pydict())


def smiles(dataset: Dataset, *splits: str) -> set[str]:
    return {one for split in splits or ("train", "val", "test") for one in rows(dataset, split)["smiles"]}


def reasons(report: dict[str, Any]) -> dict[str, list[str]]:
    return {reason: found["files"] for reason, found in report["dropped"].items()}


def put(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def test_what_is_no_molecule_or_there_already_is_counted(bare: Bare) -> None:
    project = mine(bare)
    other = ["OCC ethanol", "CC(C", "*CC", "# a remark", "", "C" * 60, "C1CC1N\tamine"]
    put(project.root / "raw" / "a.smi", "\n".join(["smiles name", *ALCOHOLS, *other]))
    dataset, report = made(project)
    never_trained_on = {
        one for reason, files in reasons(report).items() if "token" in reason for one in files
    }
    assert smiles(dataset) | never_trained_on == {*ALCOHOLS, "NC1CC1"}
    found = {reason: files for reason, files in reasons(report).items() if "token" not in reason}
    assert found == {
        "the same molecule as another": ["a.smi:26"],
        "no valid molecule": ["a.smi:27"],
        "an atom that is no element": ["a.smi:28"],
        "longer than the context": ["a.smi:31"],
    }
    assert report["read"] == 29


def test_rows_are_one_molecule_each_and_tensors_give_it_back(bare: Bare) -> None:
    project = mine(bare)
    put(project.root / "raw" / "a.smi", "\n".join([*ALCOHOLS, *RINGS]))
    dataset, _ = made(project)
    batch = dataset.whole("train")
    assert isinstance(dataset.tensors, Molecule)
    assert dataset.tensors.texts(batch.data) == rows(dataset, "train")["smiles"]
    assert set(batch.data[:, 0].tolist()) == {END}
    ends = batch.data.gather(1, batch.length[:, None] - 1)
    assert set(ends.flatten().tolist()) == {END}
    assert batch.given is not None
    assert set(batch.given.tolist()) == {1}
    assert int((batch.data != NOTHING).sum()) == int(batch.length.sum())
    (drawn, _), *_ = zip(range(1), Batches(dataset, "train", 4, 0).from_position(Position()), strict=False)
    assert drawn is not None
    assert chemistry.version() == dataset.details["rdkit"]
    assert set(rows(dataset, "train")["scaffold"]) <= {"", "c1ccccc1", "C1CCNC1"}


def test_csv_and_sdf_and_gzip_are_read_alike(bare: Bare) -> None:
    molecules = [*ALCOHOLS, *RINGS]
    plain = mine(bare)
    put(plain.root / "raw" / "a.smi", "\n".join(molecules))
    expected, _ = made(plain)
    table = (
        "id;SMILES;name\n" + "".join(f"{place};{one};x\n" for place, one in enumerate(molecules)) + "9;;x\n"
    )
    records = "".join(f"{Chem.MolToMolBlock(Chem.MolFromSmiles(one))}$$$$\n" for one in molecules)
    for name, content, left_out in (
        ("a.csv", table.encode(), {"no SMILES in its row": ["a.csv:50"]}),
        ("a.csv.gz", gzip.compress(table.encode(), mtime=0), {"no SMILES in its row": ["a.csv.gz:50"]}),
        (
            "a.sdf",
            f"{records}broken\n\n\nM  END\n$$$$\n".encode(),
            {"a record that is no molecule": ["a.sdf#49"]},
        ),
        ("a.tsv", table.replace(";", "\t").encode(), {"no SMILES in its row": ["a.tsv:50"]}),
    ):
        project = mine(bare, path=name)
        put(project.root / name, content)
        dataset, report = made(project)
        assert dataset.revision == expected.revision, name
        assert reasons(report) == left_out
    assert made(mine(bare, path="a.csv"))[1]["ignored_columns"] == ["id", "name"]


def test_stereo_and_counter_ions_as_the_row_says(bare: Bare) -> None:
    salts = [f"{one}.[Na+].[Cl-]" for one in ALCOHOLS]
    project = mine(bare, fragments="largest", stereo="drop")
    put(project.root / "raw" / "a.smi", "\n".join([*salts, *(f"{one}C[C@H](F)Cl" for one in ALCOHOLS)]))
    dataset, _ = made(project)
    found = smiles(dataset)
    assert set(ALCOHOLS) <= found
    assert not any("@" in one or "." in one for one in found)
    kept, _ = made(mine(bare))
    assert any("@" in one for one in smiles(kept))
    assert any("." in one for one in smiles(kept))


def test_scaffolds_stand_in_one_split(bare: Bare) -> None:
    cores = [
        "c1ccccc1",
        "C1CCNC1",
        "C1CCCCC1",
        "c1ccncc1",
        "c1ccoc1",
        "C1CC1",
        "c1cc[nH]c1",
        "C1COC1",
        "C1CCC1",
        *("c1cnccn1", "C1CCOC1", "C1CNC1", "c1ccsc1", "C1CCNCC1", "C1COCCN1"),
    ]
    several = [f"{'C' * length}{core}" for core in cores for length in range(1, 8)]
    project = mine(bare, hold_out="scaffold")
    put(project.root / "raw" / "a.smi", "\n".join([*several, *ALCOHOLS]))
    dataset, _ = made(project)
    sets = [set(rows(dataset, split)["scaffold"]) - {""} for split in ("train", "val", "test")]
    assert all(sets)
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    by_content, _ = made(mine(bare))
    train, test = (set(rows(by_content, split)["scaffold"]) - {""} for split in ("train", "test"))
    assert train & test


def test_a_held_out_copy_counts_and_takes_its_scaffold_along() -> None:
    shelf = Shelf(by_scaffold=True)
    assert shelf.add("Cc1ccccc1", "c1ccccc1", "train") is None
    assert shelf.add("CCc1ccccc1", "c1ccccc1", "train") is None
    assert shelf.add("CCO", "", "train") is None
    assert shelf.add("Cc1ccccc1", "c1ccccc1", "test") == "the same molecule as another"
    splits = shelf.splits(Shares(val=0.001, test=0.001))
    assert sorted(shelf.molecules[key].smiles for key in splits["test"]) == ["CCc1ccccc1", "Cc1ccccc1"]


def test_official_splits_are_kept(bare: Bare) -> None:
    project = mine(bare, split={"val": 0.1})
    put(project.root / "raw" / "train.smi", "\n".join([*ALCOHOLS, *RINGS[::2]]))
    put(project.root / "raw" / "test.csv", "SMILES\n" + "\n".join([*RINGS[1::2], ALCOHOLS[0]]))
    put(project.root / "raw" / "notes.txt", "where they are from")
    dataset, report = made(project)
    assert smiles(dataset, "train", "val") == {*ALCOHOLS[1:], *RINGS[::2]}
    assert smiles(dataset, "test") == {ALCOHOLS[0], *RINGS[1::2]}, "of two copies the held-out one counts"
    assert reasons(report) == {
        "no file of molecules": ["notes.txt"],
        "the same molecule as another": ["train.smi:1"],
    }
    lines = [f"{one},{['train', 'Test', 'val', 'other'][place % 4]}" for place, one in enumerate(ALCOHOLS)]
    put(project.root / "one.csv", "smiles,part\n" + "\n".join(lines))
    column = mine(bare, path="one.csv", official="part")
    dataset, report = made(column)
    assert smiles(dataset, "test") == set(ALCOHOLS[1::4])
    assert smiles(dataset, "val") == set(ALCOHOLS[2::4])
    assert report["dropped"]["in no split that is train, val or test"]["count"] == 6


def test_other_forms_of_training_molecules_are_rows_too(bare: Bare) -> None:
    project = mine(bare, variants=3)
    put(project.root / "raw" / "a.smi", "\n".join([*ALCOHOLS, *RINGS]))
    dataset, report = made(project)
    found = rows(dataset, "train")
    texts = dataset.tensors.texts(dataset.whole("train").data)  # type: ignore[attr-defined]
    assert len(set(texts)) == len(texts) > 2 * len(set(found["smiles"]))
    assert [Chem.CanonSmiles(text) for text in texts] == found["smiles"]
    assert report["splits"]["test"]["rows"] == report["splits"]["test"]["molecules"]
    again, _ = made(project)
    assert again.revision == dataset.revision
    plain, _ = made(mine(bare))
    assert smiles(plain, "train") == smiles(dataset, "train")


def test_bands_are_thirds_of_the_training_molecules(bare: Bare) -> None:
    project = mine(bare, bands="weight")
    put(project.root / "raw" / "a.smi", "\n".join([*ALCOHOLS, *RINGS]))
    dataset, report = made(project)
    modality = dataset.tensors
    assert isinstance(modality, Molecule)
    batch = dataset.whole("train")
    names = [modality.tokenizer.core.id_to_token(token) for token in batch.data[:, 1].tolist()]
    for text, name in zip(rows(dataset, "train")["smiles"], names, strict=True):
        assert name == f"<|{modality.bands.of(chemistry.weight(chemistry.read(text)))}|>"
    counts = [names.count(f"<|{band}|>") for band in ("low", "medium", "high")]
    assert max(counts) - min(counts) <= 1
    assert report["bands"]["property"] == "weight"
    held_out = dataset.whole("test")
    assert held_out.given is not None
    assert set(held_out.given.tolist()) == {2}
    assert modality.texts(batch.data) == rows(dataset, "train")["smiles"]
    assert not modality.agrees(made(mine(bare))[0].tensors)


def test_parquet_is_read_as_tables_are(bare: Bare) -> None:
    plain = mine(bare)
    put(plain.root / "raw" / "a.smi", "\n".join([*ALCOHOLS, *RINGS]))
    expected, _ = made(plain)
    table = pa.table({"id": range(49), "SMILES": [*ALCOHOLS, *RINGS, None]})
    project = mine(bare, path="a.parquet")
    pq.write_table(table, project.root / "a.parquet")
    dataset, report = made(project)
    assert dataset.revision == expected.revision
    assert reasons(report) == {"no SMILES in its row": ["a.parquet#48"]}
    assert report["ignored_columns"] == ["id"]
    parts = [("train", "validation", "test")[place % 3] for place in range(24)]
    project = mine(bare, path="b.parquet", smiles="structure", official="part")
    pq.write_table(pa.table({"part": parts, "structure": ALCOHOLS}), project.root / "b.parquet")
    assert smiles(made(project)[0], "test") == set(ALCOHOLS[2::3])
    project = mine(bare, path="shards")
    for name, part in (("train-00000-of-00001", ALCOHOLS[1:]), ("test-00000-of-00001", ALCOHOLS[:1])):
        (project.root / "shards").mkdir(exist_ok=True)
        pq.write_table(pa.table({"smiles": part}), project.root / "shards" / f"{name}.parquet")
    assert smiles(made(project)[0], "test") == {ALCOHOLS[0]}


@pytest.mark.parametrize(
    ("name", "content", "fields", "sentence"),
    [
        ("a.csv", "id,structure\n1,CCO\n", {}, "a.csv has no column “smiles” (its columns: id, structure)"),
        ("a.csv", "smiles\nCCO\n", {"smiles": "smile"}, "a.csv: There is no column “smile”"),
        ("a.parquet", "PAR1 CCO", {}, "a.parquet is no whole Parquet file"),
        ("a.csv", f"smiles\n{'C' * 200_000}\n", {}, "a.csv, line 2 is no row of a table"),
        ("a.smi.gz", gzip.compress(b"CCO\n" * 999, mtime=0)[:-9], {}, "a.smi.gz is no whole gzip file"),
        ("a.smi", "nothing here\n", {}, "has no molecule that can be read: 1 found, 1 left out"),
        ("a.smi", "C\nCC\n", {}, "has too few molecules: 2 found"),
        ("a.doc", "CCO\n", {}, "a.doc is no file of molecules"),
        ("raw/a.doc", "CCO\n", {"path": "raw"}, "holds no molecules (.csv, .ism, .parquet, .sd, .sdf"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(
    bare: Bare, name: str, content: str | bytes, fields: dict[str, Any], sentence: str
) -> None:
    project = mine(bare, **{"path": name, **fields})
    put(project.root / name, content)
    with pytest.raises(UserError) as told:
        made(project)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)
    assert not (project.prepared / "mine").exists()


def test_the_bundled_molecules_are_there(bare: Bare) -> None:
    project = bare({"nci": {"source": "nci", "limit": 300, "fragments": "largest"}})
    dataset, report = made(project, "nci")
    assert sum(len(rows(dataset, split)["smiles"]) for split in ("train", "val", "test")) == report["kept"]
    assert report["kept"] + sum(found["count"] for found in report["dropped"].values()) == report["read"]
    for one in smiles(dataset):
        assert Chem.CanonSmiles(one) == one
    assert (dataset.folder / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_a_persons_file_is_recognised_and_surveyed(bare: Bare, tmp_path: Path) -> None:
    project = bare({})
    put(tmp_path / "a.smi", "\n".join([*ALCOHOLS, "C(C"]))
    row = describe(project, tmp_path / "a.smi", {"bands": "qed"})
    assert (row.source, row.modality, row.path) == ("molecules", "molecule", str(tmp_path / "a.smi"))
    assert goal(row) == ("prompt", ("gpt", "lstm"))
    assert survey(project, "a", row).entries == 25
    put(tmp_path / "t.csv", "id,smiles\n1,CCO\n")
    put(tmp_path / "n.csv", "id,value\n1,2\n")
    assert is_molecules(tmp_path / "t.csv")
    assert not is_molecules(tmp_path / "n.csv")
    assert is_molecules(tmp_path / "n.csv", "value")
    with pytest.raises(UserError, match="holds molecules; leave out --size"):
        describe(project, tmp_path / "a.smi", {"size": (8, 8)})
    with pytest.raises(UserError, match="holds no molecule that can be read"):
        survey(project, "n", describe(project, tmp_path / "n.csv", {"smiles": "value"}))


def test_parquet_with_a_column_of_smiles_is_no_picture(bare: Bare, tmp_path: Path) -> None:
    project = bare({})
    pq.write_table(pa.table({"Smiles": ALCOHOLS, "logp": [0.5] * 24}), tmp_path / "a.parquet")
    row = describe(project, tmp_path / "a.parquet", {})
    assert row.source == "molecules"
    found = survey(project, "a", row)
    assert (found.entries, found.ignored) == (24, ("logp",))
    pq.write_table(pa.table({"structure": ALCOHOLS}), tmp_path / "b.parquet")
    assert held(tmp_path / "b.parquet", {}) == "pictures"
    assert held(tmp_path / "b.parquet", {"smiles": "structure"}) == "molecules"
    pq.write_table(pa.table({"image": [b"\x89PNG"], "smiles": ["CCO"]}), tmp_path / "c.parquet")
    assert held(tmp_path / "c.parquet", {}) == "pictures"
    assert held(tmp_path / "c.parquet", {"smiles": "smiles"}) == "molecules"


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("\n".join(ALCOHOLS), ()),
        ("\n".join(["structure", *ALCOHOLS]), ()),
        ("\n".join(["id,structure", *(f"{place},{one}" for place, one in enumerate(ALCOHOLS))]), ("id",)),
    ],
    ids=["bare", "headed", "table"],
)
def test_a_text_is_molecules_if_the_option_says_so(
    bare: Bare, tmp_path: Path, text: str, ignored: tuple[str, ...]
) -> None:
    project = bare({})
    put(tmp_path / "a.txt", text)
    assert held(tmp_path / "a.txt", {}) == "text"
    row = describe(project, tmp_path / "a.txt", {"smiles": "structure"})
    found = survey(project, "a", row)
    assert (found.entries, found.dropped, found.ignored) == (24, {}, ignored)


def test_a_row_of_dvc_depends_on_the_file(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    project = mine(bare, path="a.smi")
    put(project.root / "a.smi", "\n".join(ALCOHOLS))
    said: list[list[str]] = []
    monkeypatch.setattr("components.data.stages.run_dvc", lambda _, arguments: said.append(list(arguments)))
    ensure_stage(project, "mine")
    assert said[0][said[0].index("a.smi") - 1] == "-d"
