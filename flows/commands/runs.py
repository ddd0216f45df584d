"""`genloom runs`: the trainings, running or ended, side by side."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import UserError
from flows.commands.show import AsJson, columns, facts, listing

if TYPE_CHECKING:
    from components.train.runs import RunRecord

Name = Annotated[
    str, typer.Argument(help="An id, its beginning, or a run's name for its latest.", show_default=False)
]
LOOK = 0.5
"""Seconds between two looks at a log that is followed."""
COMPARED, LONGEST = 3, 400
"""How many texts of a run are put beside those of others, and how many characters of each."""


def attach(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    runs = typer.Typer(help="The trainings, running or ended.", no_args_is_help=True)
    runs.command("list")(list_runs)
    runs.command("show")(show_run)
    runs.command("compare")(compare)
    runs.command("logs")(logs)
    runs.command("stop")(stop)
    app.add_typer(runs, name="runs")


def list_runs(as_json: AsJson = False) -> None:
    """List the runs, the newest first."""
    from components.project import open_project
    from components.train.runs import read_progress, read_runs

    rows = []
    for record in read_runs(open_project().settings):
        last = (read_progress(record) or [{"step": 0}])[-1]
        row = {"id": record.id, "run": record.run, "family": record.family, "state": _state(record)}
        place = {"step": last["step"], "steps": record.steps, "loss": _losses(last)}
        rows.append({**row, **place, "created": record.created})
    if not as_json:
        rows = [_short(row) for row in rows]
    listing(rows, as_json, "No runs yet; start one with genloom train RUN.")


def show_run(name: Name, as_json: AsJson = False) -> None:
    """Show one run: where it stands, its settings, its numbers, where its files are."""
    from components.project import flatten

    record = _read(name)
    pictures = [str(path) for path in _pictures(record)]
    evaluated = (record.evaluation / "report.json").is_file()
    content = {
        "id": record.id,
        "state": _state(record),
        "reason": record.reason or None,
        "product": record.product,
        "family": record.family,
        "dataset": record.dataset,
        "revision": record.revision,
        "created": record.created,
        "workers": record.workers,
        "steps": record.steps,
        "parameters": dict(record.parameters) if as_json else dict(flatten(record.parameters)),
        "key": record.key,
        "tracking_run": record.tracking_run or None,
        "last": _last(record),
        "metrics": _metrics(record),
        "pictures": pictures if as_json else "\n".join(pictures),
        "artifact": str(record.artifact) if record.artifact.is_dir() else None,
        "evaluation": str(record.evaluation) if evaluated else None,
    }
    facts(content, as_json)


def compare(
    names: Annotated[list[str], typer.Argument(help="Two runs or more.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the picture goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put runs side by side: the parameters that differ, the numbers, one picture of all samples, or their texts."""
    from components.project import flatten, open_project

    records = {record.id: record for record in map(_read, names)}
    if len(records) < 2:
        raise UserError(f"“{' '.join(names)}” is one run only; name two or more that differ.")
    parameters = _table({name: dict(flatten(record.parameters)) for name, record in records.items()})
    different = {key: row for key, row in parameters.items() if len({str(v) for v in row.values()}) > 1}
    numbers = _table({name: _metrics(record) | _last(record) for name, record in records.items()})
    short = hashlib.sha256(" ".join(records).encode()).hexdigest()[:8]
    path = (out or open_project().root / "out" / f"compare-{short}.png").resolve()
    texts = {name: found for name, record in records.items() if (found := _texts(record))}
    try:
        drawn = _draw(list(records.values()), path)
    except OSError as error:
        cause = error.strerror or error
        raise UserError(f"The picture {path} cannot be made: {cause}; name another with -o.") from error
    if as_json:
        content = {"runs": list(records), "parameters": different, "metrics": numbers}
        facts({**content, "picture": str(drawn) if drawn else None, "samples": texts}, True)
        return
    listing([{"parameter": key, **row} for key, row in different.items()], False, "No parameter differs.")
    print()
    listing([{"metric": key, **row} for key, row in numbers.items()], False, "No numbers yet.")
    if drawn or not texts:
        print(f"\nSamples side by side: {drawn}" if drawn else "\nNo run has pictures yet.")
    if texts:
        print("\nThe first samples of each run:\n")
        columns(texts)


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a run reported, a line a report."""
    from components.train.runs import read_progress

    shown, name = 0, _read(name).id  # a run's name may mean another training in a moment
    while True:
        record = _read(name)
        lines = read_progress(record)
        for line in lines[shown:]:
            print(json.dumps(line) if as_json else _sentence(record, line), flush=True)
        shown = len(lines)
        if not follow or _state(record) != "running":
            break
        time.sleep(LOOK)
    if not as_json:
        print(f"{record.id}: {_state(record)}{f' ({record.reason})' if record.reason else ''}")


def stop(name: Name) -> None:
    """Ask a run to write a checkpoint and end."""
    record = _read(name)
    state = _state(record)
    if state != "running":
        raise UserError(f"The run {record.id} does not run, it is {state}; there is nothing to stop.")
    record.stop_file.touch()
    every = record.parameters["train"]["log_every"]
    print(
        f"{record.id} writes a checkpoint at its next report (there is one every {every} steps) and ends; "
        "the same command that started it goes on from there."
    )


def _read(name: str) -> RunRecord:
    from components.project import open_project
    from components.train.runs import read_run

    return read_run(open_project().settings, name)


def _state(record: RunRecord) -> str:
    return "interrupted" if record.interrupted else record.state


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row that fits a terminal: the id begins with the run's name anyway."""
    step = f"{row['step']}/{row['steps']}"
    created = row["created"][:16].replace("T", " ")
    return {key: row[key] for key in ("id", "family", "state")} | {
        "step": step,
        "loss": row["loss"],
        "created": created,
    }


def _losses(line: dict[str, Any]) -> dict[str, float]:
    """The losses of a progress line, without the prefix."""
    return {key.removeprefix("loss/"): value for key, value in line.items() if key.startswith("loss/")}


def _last(record: RunRecord) -> dict[str, Any]:
    from components.train.runs import read_progress

    return (read_progress(record) or [{}])[-1]


def _metrics(record: RunRecord) -> dict[str, str]:
    """The evaluation's metrics with their intervals, if there is one."""
    from components.evaluation.report import read_report
    from components.promotion.gate import shown

    path = record.evaluation / "report.json"
    if not path.is_file():
        return {}
    return {name: shown(metric) for name, metric in read_report(path).metrics.items()}


def _pictures(record: RunRecord) -> list[Path]:
    """The latest picture of samples, and those of the evaluation; of text, files of text, and sounds of sound."""
    drawn, evaluated = (
        sorted(path for path in folder.glob("*") if path.suffix in (".png", ".txt", ".wav"))
        for folder in (record.folder / "samples", record.evaluation)
    )
    return [*drawn[-1:], *evaluated]


def _texts(record: RunRecord) -> list[str]:
    """The first samples of a run that makes text, shortened: the evaluation's, or the latest of training."""
    from components.modalities.text import apart

    found = [path for path in _pictures(record) if path.suffix == ".txt" and path.stem != "nearest"]
    if not found:
        return []
    texts = apart(found[-1].read_bytes())[:COMPARED]
    return [text if len(text) <= LONGEST else f"{text[:LONGEST]}…" for text in texts]


def _table(columns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Columns of named values turned into rows, in the order of the first appearance of each name."""
    names = dict.fromkeys(key for column in columns.values() for key in column)
    return {key: {name: column.get(key) for name, column in columns.items()} for key in names}


def _draw(records: list[RunRecord], path: Path) -> Path | None:
    """The latest samples of all runs that have some, in one picture at `path`."""
    from components.pictures import side_by_side

    found = [(record, [path for path in _pictures(record) if path.suffix == ".png"]) for record in records]
    captions = [
        ((record.id, f"{record.family}, {pictures[0].stem}, {_state(record)}"), pictures[0])
        for record, pictures in found
        if pictures and pictures[0].suffix == ".png"
    ]
    if not captions:
        return None
    side_by_side(captions, path)
    return path


def _sentence(record: RunRecord, line: dict[str, Any]) -> str:
    from flows.progress import rate

    losses = "  ".join(f"{name}={value:.4g}" for name, value in _losses(line).items())
    warnings = "".join(f"\nWarning: {sentence}" for sentence in line.get("warnings", ()))
    return f"step {line['step']}/{record.steps}  {line.get('seconds', 0):.1f} s  {rate(line)}  {losses}{warnings}"
