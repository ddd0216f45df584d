"""Molecules are measured: a whole evaluation of a small model, and what known molecules are worth."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rdkit import Chem, DataStructs
from torch import Tensor

from components.artifact import load, save
from components.data.dataset import Batches, Dataset, Position
from components.data.prepare import prepare
from components.errors import UserError
from components.evaluation.evaluate import evaluate
from components.evaluation.measure_molecule import NEIGHBOURS, MoleculeMeasurement
from components.evaluation.measurement import Extent, Measured, Subject, measurement_of
from components.evaluation.molecules import Found, Known, distance, diversity, measure, scaffold_similarity
from components.evaluation.report import Report, sentence, table
from components.families.family import END, NOTHING, Requests
from components.families.gpt import GPT
from components.modalities.molecule import Molecule
from components.modalities.structures import SIDE
from components.project import open_project
from tests.components.families.rows import an_about

FAMILY = GPT(layers=1, heads=2, kv_heads=2, width=32, lr=1e-2)
NOVEL = Known(frozenset(), frozenset(), True)


def silent(sentence: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("molecules")
    row = "{source: nci, limit: 420, fragments: largest, context: 40, bands: weight, split: {val: 0.1, test: 0.3}}"
    (root / "params.yaml").write_text(f"datasets:\n  nci: {row}\n")
    return prepare(open_project(root), "nci", root / "prepared" / "nci")


@pytest.fixture(scope="module")
def artifact(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    networks = FAMILY.networks(dataset.shape)
    optimizers = FAMILY.optimizers("decoder", networks["decoder"])
    stream = Batches(dataset, "train", 32, 0).from_position(Position())
    for step, (batch, _) in zip(range(60), stream, strict=False):
        networks["decoder"].zero_grad()
        FAMILY.loss("decoder", networks, batch, step)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
    about = dataclasses.replace(
        an_about(dataset.shape), modality="molecule", dataset=dataset.name, revision=dataset.revision
    )
    folder = tmp_path_factory.mktemp("gpt") / "artifact"
    save(folder, FAMILY, networks, dataset.shape, about, dataset.folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated") / "evaluation"


@pytest.fixture(scope="module")
def report(artifact: Path, dataset: Dataset, folder: Path) -> Report:
    return evaluate(artifact, dataset, folder, folder / "cache", samples=100)


def test_nats_are_those_of_the_familys_forward(report: Report, artifact: Path, dataset: Dataset) -> None:
    model = load(artifact)
    batch = dataset.whole("test")
    assert isinstance(model.family, GPT)
    found = []
    for row, length in zip(batch.data, batch.length.tolist(), strict=True):
        tokens = row[None, :length]
        with torch.inference_mode():
            chances = model.networks["decoder"](tokens)[0, :-1].double().log_softmax(1)
        own = chances.gather(1, tokens[0, 1:, None])
        found.append(-float(own[1:].sum()))  # the band is given
    assert report.metrics["nats_per_molecule"].value == pytest.approx(np.mean(found), rel=1e-5)
    assert report.metrics["nats_per_molecule"].high < report.baseline["nats_per_molecule"].low * 2


def test_the_report_has_all_columns_and_its_pictures(report: Report, folder: Path) -> None:
    assert next(iter(report.metrics)) == "nats_per_molecule"
    assert set(report.metrics) <= set(Molecule.metrics)
    assert report.reference["validity"].value == 1.0
    assert report.reference["novelty"].value == 1.0
    assert "band_accuracy" in report.metrics
    assert report.pictures == ("samples.png", "samples.smi", "nearest.png")
    assert len((folder / "samples.smi").read_text().splitlines()) == 100
    for name in ("samples.png", "nearest.png"):
        with Image.open(io.BytesIO((folder / name).read_bytes())) as picture:
            assert picture.width >= SIDE
    assert f"100 samples beside {report.protocol['reference']} held-out molecules" in sentence(report)
    assert {line["metric"] for line in table(report)} >= {"validity", "mean_qed"}


def test_an_evaluation_of_the_same_is_not_done_again(
    report: Report, artifact: Path, dataset: Dataset, folder: Path
) -> None:
    said: list[str] = []
    assert evaluate(artifact, dataset, folder, folder, samples=100, progress=said.append) == report
    assert said == []


def written(dataset: Dataset, smiles: Sequence[str]) -> Subject:
    """What always draws these, one after the other."""
    modality = dataset.tensors
    assert isinstance(modality, Molecule)

    def sample(requests: Requests, width: int) -> Tensor:
        rows = torch.full((len(requests), dataset.shape.data[0]), NOTHING)
        for place, seed in enumerate(requests.seed.tolist()):
            tokens = modality.tokenizer.encode(smiles[seed % len(smiles)])
            rows[place, : len(tokens)] = torch.tensor(tokens)
        return rows

    return Subject(sample, lambda batch: None)


def measured(dataset: Dataset, smiles: Sequence[str], tmp_path: Path) -> Measured:
    measurement = measurement_of("molecule")(dataset, tmp_path, Extent(100), silent)
    assert isinstance(measurement, MoleculeMeasurement)
    return measurement.measure(written(dataset, smiles), silent)


def test_training_molecules_are_valid_and_not_novel(dataset: Dataset, tmp_path: Path) -> None:
    smiles = pq.read_table(dataset.folder / "train").column("smiles").to_pylist()[:100]
    found = measured(dataset, smiles, tmp_path)
    values = {name: metric.value for name, metric in found.metrics.items()}
    assert (values["validity"], values["uniqueness"], values["novelty"]) == (1.0, 1.0, 0.0)
    assert values["scaffold_novelty"] == 0.0
    assert "nats_per_molecule" not in values
    real = {name: metric.value for name, metric in found.reference.items()}
    assert values["weight_distance"] < 40
    with Image.open(io.BytesIO(found.files["nearest.png"])) as picture:
        assert picture.width == (1 + NEIGHBOURS) * SIDE
    assert values["internal_diversity"] == pytest.approx(real["internal_diversity"], abs=0.05)


def test_what_is_no_molecule_is_worth_nothing(dataset: Dataset, tmp_path: Path) -> None:
    found = measured(dataset, ["C(", "CC("], tmp_path).metrics
    assert set(found) == {"validity", "band_accuracy"}
    assert found["validity"].value == found["band_accuracy"].value == 0.0


def test_another_rdkit_writes_the_training_molecules_anew(dataset: Dataset, tmp_path: Path) -> None:
    smiles = pq.read_table(dataset.folder / "train").column("smiles").to_pylist()[:100]
    other = dataclasses.replace(dataset, details={**dataset.details, "rdkit": "2000.01.1"})
    assert measured(other, smiles, tmp_path).metrics["novelty"].value == 0.0


def test_shares_count_molecules_and_not_strings() -> None:
    drawn = Found(["CCO", "OCC", "c1ccccc1", "C1=CC=CC=C1", "CC", "C(", ""])
    found = measure(drawn, drawn, Known(frozenset({"CCO"}), frozenset(), True), 0)
    assert set(found) == {"validity", "uniqueness", "novelty"}
    assert found["validity"].value == pytest.approx(5 / 7)
    assert found["uniqueness"].value == pytest.approx(3 / 5)
    assert found["novelty"].value == pytest.approx(2 / 3)


def test_statistics_are_those_of_their_definitions() -> None:
    drawn = Found([f"{'C' * length}c1ccc(O)cc1{'N' * (length % 3)}" for length in range(1, 24)])
    prints = [Chem.RDKFingerprint(one) for one in drawn.valid]
    assert len(prints) == 23
    pairs = [
        DataStructs.TanimotoSimilarity(one, other)
        for place, one in enumerate(drawn.fingerprints)
        for number, other in enumerate(drawn.fingerprints)
        if place != number
    ]
    value, low, high = diversity(drawn, 0)
    assert value == pytest.approx(1 - np.mean(pairs))
    assert low < value < high
    values = np.random.default_rng(0).normal(size=500)
    assert distance(values, values + 2.0, 0)[0] == pytest.approx(2.0)
    assert distance(values, values, 0)[0] == 0.0
    same = scaffold_similarity(["a", "b", ""], ["b", "a", "a", "b"], 0)
    assert same is not None
    assert same[0] == pytest.approx(1.0)
    apart = scaffold_similarity(["a"], ["b"], 0)
    assert apart is not None
    assert apart[0] == 0.0
    assert scaffold_similarity(["", ""], ["a"], 0) is None
    nearest = measure(drawn, Found(drawn.smiles[:2]), NOVEL, 0)["similarity_to_nearest"]
    best = [
        max(DataStructs.TanimotoSimilarity(one, other) for other in drawn.fingerprints[:2])
        for one in drawn.fingerprints
    ]
    assert nearest.value == pytest.approx(np.mean(best))


def test_too_few_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="draw at least 100"):
        MoleculeMeasurement(dataset, tmp_path, Extent(99), silent)
    few = dataclasses.replace(
        dataset,
        files={
            name: {**facts, "rows": 9} if name.startswith("test") else facts
            for name, facts in dataset.files.items()
        },
    )
    with pytest.raises(UserError, match="has 9 molecules and evaluation needs 40"):
        MoleculeMeasurement(few, tmp_path, Extent(100), silent)


def test_rows_begin_with_the_boundary(dataset: Dataset) -> None:
    assert int(dataset.whole("val").data[0, 0]) == END
