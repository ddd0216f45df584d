"""tiny-shakespeare by characters: our GPT beside nanoGPT's recipe for a CPU, in the same sitting; and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from components.data.dataset import Dataset
from components.data.example import silent
from components.data.fetch import fetch
from components.data.prepare import reproduce
from components.evaluation.project import evaluate_artifact
from components.modalities.text import Text
from components.project import Project, open_project
from components.rows import TextFilesRow
from components.train.attempts import Trained
from components.train.launch import train
from components.train.runs import load_run, read_progress
from tests.benchmarks import partners
from tests.benchmarks.row import Row

SEEDS = 3


def run(project: Path) -> list[Row]:
    """The partner first; then ours within its time, and an LSTM."""
    where = open_project(project)
    (dataset,) = reproduce(where, ["shakespeare"])
    budget, sampled, whole = partners.recipe(*texts(where, dataset), dataset.shape.vocabulary)
    rows = [
        Row(
            "tiny-shakespeare: nanoGPT's CPU recipe with transformers' GPT-2, 2,000 steps",
            f"{whole:.3f} nats ({sampled:.3f} on 20 sampled batches) in {budget:.0f} s",
            "stated",
            {"loss": whole, "seconds": budget},
        )
    ]
    for name, wanted in (
        ("shakespeare-gpt", f"≤ 1.62 in {budget:.0f} s"),
        ("shakespeare-lstm", "stated"),
    ):
        rows.append(measured(where, name, wanted))
    return rows


def long(project: Path) -> list[Row]:
    """Ours in ten minutes."""
    where = open_project(project)
    reproduce(where, ["shakespeare"])
    return [measured(where, "shakespeare-gpt-long", "≤ 1.47 in 600 s")]


def gpu(project: Path) -> list[Row]:
    """Ours as large as nanoGPT's recipe for a GPU, three times."""
    if not torch.cuda.is_available():
        raise SystemExit("shakespeare-gpu needs a GPU, and torch sees none.")
    where = open_project(project)
    reproduce(where, ["shakespeare-wide"])
    wanted = f"≤ 1.47 in 180 s on {torch.cuda.get_device_name()}"
    return [
        measured(where, "shakespeare-wide-gpt", wanted, [f"train.seed={seed}"], f", seed {seed}")
        for seed in range(SEEDS)
    ]


def texts(where: Project, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """The first 90% and the last 10% of the text as tokens [N], [M], by the dataset's tokenizer."""
    row = where.dataset("shakespeare")
    assert isinstance(row, TextFilesRow)
    text = fetch(row.files["all"], where.settings, silent).read_text(encoding="utf-8")
    modality = dataset.tensors
    assert isinstance(modality, Text)
    tokens = torch.tensor(modality.tokenizer.encode(text))
    first = len(tokens) * 9 // 10
    return tokens[:first], tokens[first:]


def measured(where: Project, run: str, wanted: str, overrides: Sequence[str] = (), said: str = "") -> Row:
    """Train a run and evaluate it on the whole held-out text."""
    trained = train(where, run, overrides, fresh=True)
    seconds = read_progress(load_run(trained.folder))[-1]["seconds"]
    loss, bits = held_out(where, where.run(run).product, trained)
    steps = load_run(trained.folder).steps
    return Row(
        f"tiny-shakespeare: `{run}`, {steps:,} steps, {weights(trained):,} weights{said}",
        f"{loss:.3f} nats ({bits:.3f} bits) a character on the whole held-out text, {seconds:.0f} s",
        wanted,
        {"loss": loss, "seconds": seconds},
    )


def held_out(where: Project, product: str, trained: Trained) -> tuple[float, float]:
    """Nats a token and bits a character by the evaluation."""
    report = evaluate_artifact(where, product, trained.artifact, trained.folder / "evaluation")
    return math.log(report.metrics["perplexity"].value), report.metrics["bits_per_character"].value


def weights(trained: Trained) -> int:
    """The number of weights in the artifact."""
    from safetensors.torch import load_file

    from components.artifact import WEIGHTS

    return sum(value.numel() for value in load_file(trained.artifact / WEIGHTS).values())
