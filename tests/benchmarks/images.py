"""Every family of pictures on real data: trained by Ray Train, measured on the test split, its picture beside it.

Each run of `EVERY` is a row of the table in docs/benchmarks.md. The row ends with the key of the training; while
the key is unchanged, the row is left as it is.
"""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from components import files
from components.data.prepare import reproduce
from components.evaluation.measurement import WEIGHED as WEIGHED_ROWS
from components.evaluation.project import evaluate_artifact
from components.evaluation.report import Report
from components.project import Project, open_project
from components.train.attempts import Trained
from components.train.launch import train
from components.train.runs import load_run, read_progress
from components.train.wanted import plan_of
from tests.benchmarks.image_extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "out" / "bench" / "home"
PICTURES = ROOT / "docs" / "pictures" / "images"
HEADER = "| run (family) | steps, minutes | measured [95%], real rows | wanted | picture | date, key |"
DRAWN = ("judge_frechet_distance", "judge_precision", "judge_recall", "judge_density", "judge_coverage")
ASKED = ("class_accuracy", "judge_density", "judge_coverage")
NATS = ("negative_elbo_nats", "importance_weighted_nats")
BINARY = ("binarized_negative_elbo_nats", "binarized_importance_weighted_nats")
CODED = ("codebook_perplexity", "codebook_used")
TURNED = ("psnr", "hole_psnr", "ssim")
CONVERTED = ("class_accuracy",)
CAPTIONED = ("caption_reciprocal_rank", "caption_reciprocal_rank_training")
WEIGHED: Mapping[str, int] = {"mnist-vae-binarized": 10_000}
"""The held-out rows whose likelihood is estimated by importance weighting, where not the usual hundred."""
FIGURES = 3
KEY = 12
"""Digits of the key that the table shows."""


@dataclass(frozen=True)
class Aim:
    """What the row of a run shows, where the report has it, and what is wanted of it."""

    metrics: tuple[str, ...]
    wanted: str = "a person recognises digits"


RECOGNISED = "≥ 97% recognised as the asked class"
CAPTIONS = "≥ 2× chance; ≥ 10× on training captions"
LOOKED_AT = "a person recognises the content"
AIMS: Mapping[str, Aim] = {
    "mnist-gan": Aim(DRAWN),
    "mnist-dcgan": Aim(DRAWN),
    "mnist-wgan-gp": Aim(DRAWN),
    "mnist-cgan": Aim(ASKED, RECOGNISED),
    "mnist-attention-gan": Aim(ASKED, RECOGNISED),
    "mnist-stylegan2": Aim(DRAWN),
    "mnist-vae": Aim((*DRAWN, *NATS)),
    "mnist-vae-binarized": Aim(BINARY, "−ELBO ≤ 89 nats, 500 draws ≤ 86.5"),
    "mnist-cvae": Aim((*ASKED, *NATS), RECOGNISED),
    "mnist-attention-vae": Aim((*DRAWN, *NATS)),
    "mnist-vqvae": Aim((*DRAWN, *CODED)),
    "mnist-classes-vqvae": Aim((*ASKED, *CODED), f"{RECOGNISED}; density and coverage ≥ 0.90"),
    "mnist-diffusion": Aim(DRAWN, "density and coverage ≥ 0.90; 64 samples in ≤ 3 s"),
    "mnist-classes-diffusion": Aim(ASKED, RECOGNISED),
    "emoji-diffusion": Aim(CAPTIONED, CAPTIONS),
    "bsd-denoise-pix2pix": Aim(TURNED, "≥ 28.8 dB on Set12"),
    "mnist-inpaint-pix2pix": Aim(TURNED, "beside the source"),
    "mnist-enlarge-pix2pix": Aim(TURNED, "beside the source"),
    "cifar-colour-pix2pix": Aim(TURNED, "beside the source"),
    "digits-to-mnist-cyclegan": Aim(CONVERTED, "accuracy before and after"),
    "mnist-gan-collapsed": Aim(DRAWN, "stated"),
    "mnist-gan-diverse": Aim(DRAWN, "recall above that of mnist-gan-collapsed, intervals apart"),
}
"""The runs of the table, in its order."""
LARGE: Mapping[str, Aim] = {
    "cifar-classes-diffusion": Aim(ASKED, LOOKED_AT),
    "cifar-classes-stylegan2": Aim((*ASKED, *DRAWN[:3]), LOOKED_AT),
    "emoji-64-diffusion": Aim(CAPTIONED, CAPTIONS),
}
"""Those for a GPU, which follow; without one they run only by name."""
EVERY: Mapping[str, Aim] = {**AIMS, **LARGE}


def main(project: Path, page: Path, names: list[str]) -> None:
    """Measure the runs called `names`, or of the families called so, by default all, and put them into `page`."""
    os.environ["GENLOOM_HOME"] = str(HOME)  # outlives the project, so a training that was cut off goes on
    where = open_project(project)
    failed = []
    for name in chosen(where, names):
        try:
            row = fresh(where, page, name)
        except Exception:  # the other rows do not wait for this one
            traceback.print_exc()
            failed.append(name)
            continue
        if row is not None:
            print(row, flush=True)
            keep(page, name, row)
    if failed:
        raise SystemExit(f"These runs failed: {', '.join(failed)}.")


def chosen(where: Project, names: Iterable[str]) -> list[str]:
    """The runs of the table by name or family, all if `names` is empty; without a GPU, large ones by name only."""
    wanted = set(names)
    suited = (
        EVERY if torch.cuda.is_available() else {**AIMS, **{name: EVERY[name] for name in wanted & {*LARGE}}}
    )
    known = [name for name in suited if name in where.tables.runs]
    unknown = wanted - {*known, *(where.run(name).family for name in known)}
    if unknown:
        raise SystemExit(f"The table has no run or family {', '.join(sorted(unknown))}.")
    return [name for name in known if not wanted or wanted & {name, where.run(name).family}]


def fresh(where: Project, page: Path, name: str) -> str | None:
    """The new row of a run, or None where the table's is of the same training."""
    reproduce(where, [where.product(where.run(name).product).dataset])
    key = plan_of(where, name).key[:KEY]
    if any(line.startswith(f"| `{name}`") and f"{key} |" in line for line in lines(page)):
        print(f"{name}: unchanged", flush=True)
        return None
    trained = train(where, name)
    report = evaluate_artifact(
        where,
        where.run(name).product,
        trained.artifact,
        trained.folder / "evaluation",
        weighed=WEIGHED.get(name, WEIGHED_ROWS),
    )
    return line(where, name, key, trained, report)


def line(where: Project, name: str, key: str, trained: Trained, report: Report) -> str:
    """A run as a row of Markdown."""
    aim, row = EVERY[name], where.run(name)
    minutes = read_progress(load_run(trained.folder))[-1]["seconds"] / 60
    found = [*measured(aim.metrics, report), *EXTRAS.get(name, lambda *_: [])(where, trained, report)]
    cells = (
        f"`{name}` ({row.family})",
        f"{row.train.steps:,}, {minutes:.1f}",
        "; ".join(found),
        aim.wanted,
        picture(name, trained, report),
        f"{datetime.now(UTC):%Y-%m-%d}{_gpu()} {key}",
    )
    return f"| {' | '.join(cells)} |"


def _gpu() -> str:
    return f", {torch.cuda.get_device_name()}," if torch.cuda.is_available() else ""


def measured(metrics: Iterable[str], report: Report) -> list[str]:
    """The metrics and facts that the report has, each with its interval and that of real rows."""
    said = []
    for name in metrics:
        if name in report.facts:
            each = [f"{column} {value:.{FIGURES}g}" for column, value in report.facts[name].items()]
            said.append(f"{name} ({', '.join(each)})")
        if name in report.metrics:
            metric = report.metrics[name]
            beside = [
                f"{what} {other[name].value:.{FIGURES}g}"
                for what, other in (("real", report.reference), ("trivial", report.baseline))
                if name in other
            ]
            value = f"{metric.value:.{FIGURES}g} [{metric.low:.{FIGURES}g}, {metric.high:.{FIGURES}g}]"
            said.append(f"{name} {value}" + (f" ({', '.join(beside)})" if beside else ""))
    return said


def picture(name: str, trained: Trained, report: Report) -> str:
    """The report's first picture, copied beside the page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for found in report.pictures:
        suffix = "" if found == report.pictures[0] else f"-{Path(found).stem}"
        shutil.copyfile(trained.folder / "evaluation" / found, PICTURES / f"{name}{suffix}.png")
    return f"[samples](pictures/images/{name}.png)"


def lines(page: Path) -> list[str]:
    """The rows of the table, without its head."""
    text = page.read_text(encoding="utf-8")
    start, stop = (text.index(mark) for mark in MARKS)
    return [found for found in text[start:stop].splitlines() if found.startswith("| `")]


MARKS = ("<!-- bench-images -->", "<!-- /bench-images -->")


def keep(page: Path, name: str, row: str) -> None:
    """Put `row` in the place of the run's old one; rows stand in the order of `EVERY`."""
    kept = {found.split("`")[1]: found for found in lines(page)} | {name: row}
    ordered = [kept[run] for run in EVERY if run in kept]
    text = page.read_text(encoding="utf-8")
    start, stop = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    table = "\n".join(["", HEADER, "|---|---|---|---|---|---|", *ordered, ""])
    files.write(page, text[:start] + table + text[stop:])
