"""What the flow does with text: a champion of another vocabulary is not measured on it, and the gate says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from components.artifact import About, save
from components.data.dataset import Dataset
from components.evaluation.project import evaluate_artifact
from components.families.gpt import GPT
from components.project import open_project
from components.promotion.promote import promote
from components.promotion.registry import Registry
from tests.components.evaluation.corpora import prepared


def made(folder: Path, dataset: Dataset) -> Path:
    family = GPT(layers=1, heads=2, kv_heads=2, width=16)
    torch.manual_seed(0)
    facts = {"product": "code", "run": "code-gpt", "key": dataset.revision, "parameters": {}, "commit": ""}
    origin = {"licence": "x", "source": "x", "classes": [], "modality": "text", "dirty": False, "steps": 1}
    about = About(**facts, **origin, dataset=dataset.name, revision=dataset.revision)
    save(folder / "artifact", family, family.networks(dataset.shape), dataset.shape, about, dataset.folder)
    return folder


def test_a_champion_of_another_vocabulary_is_left_and_the_gate_refuses(
    project: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.retrain import Candidate, evaluate_champion

    opened, home = open_project(), project / "data" / "prepared" / "code"
    registry, row = Registry(opened.settings), opened.product("code")
    functions = [f"def f{place % 3}():\n    return {place // 3}\n" for place in range(9)]
    for number, change in enumerate(("f", "ghi"), start=1):
        shutil.rmtree(home, ignore_errors=True)
        texts = [text.replace("f0", change) for text in functions]
        dataset = prepared(home, {"train": texts[::2], "val": texts[1:2], "test": texts[3::2]}, 40, "code")
        folder = made(tmp_path / str(number), dataset)
        evaluate_artifact(opened, "code", folder / "artifact", folder / "evaluation")
        version = registry.register(folder / "artifact", folder / "evaluation", str(number), "", "")
        candidate = Candidate(
            "code", str(number), "", folder / "artifact", folder / "evaluation", 1, version.number
        )
        evaluate_champion.fn(project, candidate)
        decision = promote(opened.settings, "code", row, version.number)
        assert decision.accepted == (number == 1)
    assert (
        "the champion code/1 cannot be measured on the present data. The model has a vocabulary"
        in "".join(capfd.readouterr()).replace("\n", " ")
    )
    assert "was evaluated on code at revision" in decision.reasons[0]
    assert decision.previous == 1
