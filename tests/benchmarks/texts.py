"""What the runs of `params.yaml` learn from real text: trained by Ray Train, measured on their test splits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from components.data.prepare import reproduce
from components.evaluation.project import evaluate_artifact
from components.evaluation.report import Metric, Report
from components.project import Project, open_project
from components.train.launch import train
from components.train.runs import load_run, read_progress
from tests.benchmarks.chats import talk
from tests.benchmarks.row import Row
from tests.benchmarks.shakespeare import weights

RUNS = {
    "poems-gpt": ("keeps_form", "≥ 90%"),
    "code-gpt": ("parses", "≥ 30%"),
    "papers-seq2seq": ("rouge1", "beside the lead sentence"),
    "dialogue-gpt": ("bits_per_character", "stated"),
}
"""Each run with the metric that its row is about, and what is wanted of it."""
KEPT = Path(__file__).resolve().parents[2] / "out" / "bench"
BESIDE = ("bits_per_character", "copied", "longest_overlap")
LARGE = [
    "model.layers=6",
    "model.heads=6",
    "model.width=384",
    "train.steps=20",
    "train.warmup=5",
    "train.precision=fp32",
    "train.log_every=5",
    "train.sample_every=20",
]
SHARES = {"keeps_form", "parses", "copied"}


def bench(name: str) -> Callable[[Path], list[Row]]:
    """The benchmark of one run: train and evaluate; artifact, report and samples stay in out/bench."""

    def run(project: Path) -> list[Row]:
        where = open_project(project)
        reproduce(where, [where.product(where.run(name).product).dataset])
        rows = [measured(where, name, *RUNS[name])]
        if name == "dialogue-gpt":
            rows.append(talk(where, "dialogue", KEPT / name / "artifact", KEPT / name / "chat.txt"))
        return rows

    return run


def memory(project: Path) -> list[Row]:
    """The peak of a Ray Train worker that trains 6 layers of 384 numbers, in fp32, on code."""
    where = open_project(project)
    reproduce(where, ["code"])
    trained = train(where, "code-gpt", LARGE, workers=1, fresh=True)
    peak = max(line["memory_gib"] for line in read_progress(load_run(trained.folder)))
    count = weights(trained)
    what = f"peak memory of a worker that trains a GPT of {count / 1e6:.1f}M, 8 rows of 256 a step, fp32"
    return [Row(what, f"{peak:.2f} GiB", "< 2 GiB", {"gib": peak})]


def measured(where: Project, name: str, metric: str, wanted: str) -> Row:
    """One run: its metric beside the trivial model's and that of real text, and what else is worth knowing."""
    trained = train(where, name, fresh=True)
    product = where.run(name).product
    report = evaluate_artifact(where, product, trained.artifact, trained.folder / "evaluation")
    for part in ("artifact", "evaluation"):  # the project of the benchmarks does not outlive them
        shutil.copytree(trained.folder / part, KEPT / name / part, dirs_exist_ok=True)
    minutes = read_progress(load_run(trained.folder))[-1]["seconds"] / 60
    others = "; ".join(
        f"{other} {shown(other, report.metrics)}"
        for other in BESIDE
        if other in report.metrics and other != metric
    )
    said = f"{columns(metric, report)}; {others}; {minutes:.1f} min"
    return Row(
        f"`{name}`: {metric}", said, wanted, {metric: report.metrics[metric].value, "minutes": minutes}
    )


def columns(metric: str, report: Report) -> str:
    """The metric of the model, of the trivial model and of real text."""
    found = {"baseline": report.baseline, "real": report.reference}
    beside = [f"{name} {shown(metric, values)}" for name, values in found.items() if metric in values]
    return f"{shown(metric, report.metrics)} ({', '.join(beside)})"


def shown(name: str, metrics: Mapping[str, Metric]) -> str:
    """A value with its interval."""
    metric = metrics[name]
    if name in SHARES:
        return f"{metric.value:.1%} [{metric.low:.1%}, {metric.high:.1%}]"
    return f"{metric.value:.3g} [{metric.low:.3g}, {metric.high:.3g}]"
