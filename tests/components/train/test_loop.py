"""What the training loop counts and remembers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from components.artifact import About
from components.data.dataset import Dataset
from components.errors import FailedError
from components.families.family import Batch, Requests
from components.project import open_project
from components.train.launch import train
from components.train.loop import forget_after, preview
from components.train.meter import Meter, Place
from components.train.plan import about_run


def test_progress_counts_predicted_tokens() -> None:
    meter = Meter(Place(0, 1, torch.device("cpu")), batch=3, tokens=True)
    rows = Batch(
        data=torch.zeros(3, 6, dtype=torch.int64),
        length=torch.tensor([6, 4, 6]),
        given=torch.tensor([1, 1, 3]),
    )
    for _ in range(2):  # 5 + 3 + 3 tokens
        meter.add({"loss/lm": torch.tensor(2.0)}, 0, rows)
    logged, bad, stop = meter.read(stop=False)
    assert (logged["loss/lm"], bad, stop) == (2.0, -1, False)
    assert logged["tokens_per_second"] / logged["rows_per_second"] == pytest.approx(22 / 6)
    meter.add({"loss/lm": torch.tensor(float("nan"))}, 7, rows)
    logged, bad, stop = meter.read(stop=True)
    assert (bad, stop) == (8, True)
    assert logged["tokens_per_second"] / logged["rows_per_second"] == pytest.approx(11 / 3)


def test_seconds_go_on_from_those_of_the_process_before(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    lines = [{"step": step, "seconds": 2.0 * step} for step in (10, 20, 30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "sec')
    assert forget_after(path, 20) == 40.0
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20]
    meter = Meter(Place(0, 1, torch.device("cpu")), batch=4, spent=40.0)
    meter.add({"loss/a": torch.tensor(1.0)}, 20, Batch(data=torch.zeros(4, 1), length=torch.ones(4)))
    assert 40.0 <= meter.read(False)[0]["seconds"] < 60.0
    assert forget_after(tmp_path / "nothing.jsonl", 20) == 0.0


def test_data_that_are_prepared_anew_meanwhile_spoil_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact keeps the tokenizer that it was trained with; workers that begin again take no other data."""
    folder = open_project().prepared / "code"
    tokenizer = (folder / "tokenizer.json").read_bytes()
    small = ["train.steps=4", "train.batch=2", "train.log_every=1", "train.sample_every=100"]
    small += ["train.warmup=0", "model.layers=1", "model.width=32", "model.heads=2"]

    def spoil(line: dict[str, float]) -> None:
        (folder / "tokenizer.json").write_bytes(tokenizer + b"\n")

    trained = train(open_project(), "code-gpt", small, workers=0, progress=spoil)
    assert (trained.artifact / "tokenizer.json").read_bytes() == tokenizer
    (folder / "tokenizer.json").write_bytes(tokenizer)

    def before(*arguments: Any) -> About:
        return dataclasses.replace(about_run(*arguments), revision="before")

    manifest = folder / "dataset.json"
    content = manifest.read_text()

    def meanwhile(dataset: Dataset) -> Requests:
        manifest.write_text(content.replace(dataset.revision, "0" * 64))
        return preview(dataset)

    with monkeypatch.context() as patch:
        patch.setattr("components.train.loop.preview", meanwhile)
        with pytest.raises(FailedError, match="“code” was prepared anew while code-gpt trained"):
            train(open_project(), "code-gpt", small, workers=0, fresh=True)
    manifest.write_text(content)
    monkeypatch.setattr("components.train.launch.about_run", before)
    with pytest.raises(FailedError, match="“code” was prepared anew while code-gpt trained"):
        train(open_project(), "code-gpt", small, workers=0, fresh=True)
