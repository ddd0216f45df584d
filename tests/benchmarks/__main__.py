"""`python -m tests.benchmarks TARGET [NAME …]`: run benchmarks of `make TARGET`, put their rows into the page."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from components import files
from components.settings import quiet_environment
from tests.benchmarks import (
    decoding,
    images,
    ingest,
    killed,
    marks,
    mixed,
    overload,
    rerun,
    rivals,
    samples,
    scaling,
    serve,
    shakespeare,
    streams,
    texts,
    throughput,
    training,
)
from tests.benchmarks.load import TRIAL
from tests.benchmarks.row import Row

Benchmark = Callable[[Path], list[Row]]

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
SPEED: dict[str, Benchmark] = {
    "ingest": ingest.run,
    "training-vae": training.here("vae"),
    "training-gan": training.here("gan"),
    "training-worker": training.by_worker,
    "scaling": scaling.run,
    "scaling-large": scaling.large,
    "scaling-unet": scaling.unet,
    "rerun": rerun.run,
    "samples": samples.run,
}
TEXT: dict[str, Benchmark] = {
    "shakespeare": shakespeare.run,
    "shakespeare-long": shakespeare.long,
    "shakespeare-gpu": shakespeare.gpu,
    "throughput": throughput.run,
    "decoding": decoding.run,
    "memory": texts.memory,
    **{name: texts.bench(name) for name in texts.RUNS},
}
SERVE: dict[str, Benchmark] = {
    "serve": serve.run,
    "rivals": rivals.run,
    "streams": streams.run,
    "killed": killed.run,
    "marks": marks.run,
    "overload": overload.run,
    "mixed": mixed.run,
    "hour": mixed.hour,
}
BY_NAME = frozenset({"hour", "shakespeare-gpu"})
"""What runs only by name: it takes long, or a GPU."""
TABLES = {"bench": SPEED, "bench-text": TEXT, "bench-serve": SERVE}
"""The benchmarks of each target of the Makefile; each has a table of its own on the page."""


def main(target: str, names: list[str]) -> None:
    """Run what is named (by default all), each in a project of its own: none of yours, nor another's, is touched."""
    quiet_environment()
    if target == "bench-images":
        with own_project() as project:
            images.main(project, PAGE, names)
        return
    for name in names or [name for name in TABLES[target] if name not in BY_NAME]:
        with own_project() as project:
            rows = TABLES[target][name](project)
        for row in rows:
            print(row.line(), flush=True)
        if not os.environ.get(TRIAL):
            keep(target, name, rows)


@contextmanager
def own_project() -> Iterator[Path]:
    """A project that goes with the block, which is the current folder meanwhile."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="genloom-bench-") as folder:
        project = a_project(Path(folder))
        os.chdir(project)
        try:
            yield project
        finally:
            os.chdir(before)


def a_project(folder: Path) -> Path:
    """A copy of what a project consists of; prepared data is prepared there."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "components", folder / "components", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def keep(target: str, name: str, rows: list[Row]) -> None:
    """Replace the rows of one benchmark in the page; the others stay as they were measured."""
    page = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {target} -->", f"<!-- /{target} -->"
    start, stop = page.index(begin) + len(begin), page.index(end)
    marker = f"`make {target}` · {name}"
    old = [
        line for line in page[start:stop].splitlines() if line.startswith("| ") and f"{marker} |" not in line
    ]
    header = ["| what | measured | wanted | command | date, cores |", "|---|---|---|---|---|"]
    body = [line for line in old if not line.startswith("| what")]
    when = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} × {platform.machine()}"
    body += [f"| {row.what} | {row.measured} | {row.wanted} | {marker} | {when} |" for row in rows]
    table = "\n".join(["", *header, *body, ""])
    files.write(PAGE, page[:start] + table + page[stop:])
    out = ROOT / "out" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps([row.__dict__ for row in rows], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
