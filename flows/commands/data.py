"""`genloom data`: the datasets of the project, your own data, and what preparing made of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import UserError
from flows.commands.show import AsJson, facts, listing
from flows.progress import Bars

if TYPE_CHECKING:
    from components.data.dataset import Dataset
    from components.data.survey import Survey
    from components.project import Project
    from components.rows import OwnRow

Name = Annotated[str, typer.Argument(help="A dataset of params.yaml.", show_default=False)]
Size = Annotated[str | None, typer.Option("--size", help="Pixels a side, or WIDTHxHEIGHT.")]
Fit = Annotated[
    str | None, typer.Option("--fit", help="How a picture takes that size: crop, pad, stretch or cut.")
]
Channels = Annotated[int | None, typer.Option("--channels", help="3 for colour, 1 for grey.")]
CHOICES = {
    "fit": ("crop", "pad", "stretch", "cut"),
    "tokenizer": ("characters", "bytes", "bpe"),
    "unit": ("document", "line", "whole"),
    "notation": ("grid", "events"),
    "bands": ("qed", "logp", "weight"),
    "hold_out": ("content", "scaffold"),
}
ENTRIES = {
    "image": "pictures",
    "text": "documents",
    "audio": "recordings",
    "music": "pieces",
    "series": "series",
    "molecule": "molecules",
}
"""What the entries of a dataset are called, by its modality."""


def attach(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    data = typer.Typer(
        help="Datasets: your own pictures, text, sound, music, series or molecules, preparing, looking.",
        no_args_is_help=True,
    )
    data.command("list")(list_datasets)
    data.command("add")(add_data)
    data.command("prepare")(prepare_datasets)
    data.command("show")(show_dataset)
    data.command("diff")(diff_dataset)
    data.command("checkout")(check_out)
    app.add_typer(data, name="data")


def list_datasets(as_json: AsJson = False) -> None:
    """List the datasets of params.yaml and whether they are prepared."""
    from components.project import open_project

    project = open_project()
    rows = []
    for name, row in project.tables.datasets.items():
        state, count, revision = _prepared(project, name)
        rows.append(
            {
                "name": name,
                "source": row.source,
                "modality": row.modality,
                "prepared": state == "yes" if as_json else state,
                **({"damaged": state == "damaged"} if as_json else {}),
                "rows": count,
                "revision": revision,
                "licence": row.licence,
            }
        )
    listing(rows, as_json, "No datasets yet; add your own data with genloom data add NAME PATH.")


def add_data(
    name: Annotated[str, typer.Argument(help="What the dataset is to be called.", show_default=False)],
    path: Annotated[
        Path,
        typer.Argument(
            help="A folder or file of pictures, text, molecules or series (CSV), a folder of recordings or MIDI files.",
            show_default=False,
        ),
    ],
    licence: Annotated[str, typer.Option("--licence", help="The licence of the data.")] = "unknown",
    size: Size = None,
    channels: Channels = None,
    fit: Fit = None,
    image: Annotated[str | None, typer.Option("--image", help="The column of pictures in Parquet.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The column of classes in Parquet.")] = None,
    caption: Annotated[str | None, typer.Option("--caption", help="The column or key of captions.")] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help="characters, bytes or bpe.")] = None,
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens a row of text, music or molecules; steps before a forecast."),
    ] = None,
    horizon: Annotated[int | None, typer.Option("--horizon", help="Steps of series to forecast.")] = None,
    season: Annotated[int | None, typer.Option("--season", help="The period of series, in steps.")] = None,
    time: Annotated[str | None, typer.Option("--time", help="The column of times of series.")] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="document, line, or whole: one text.")] = None,
    rate: Annotated[int | None, typer.Option("--rate", help="Samples a second of recordings.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="How long recordings become.")] = None,
    notation: Annotated[
        str | None, typer.Option("--notation", help="Of music: grid (single voices) or events (any).")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Of music: steps a quarter.")] = None,
    smiles: Annotated[
        str | None,
        typer.Option("--smiles", help="The column of SMILES in a table; a .txt is one, or has one a line."),
    ] = None,
    bands: Annotated[
        str | None, typer.Option("--bands", help="Molecules are asked for by thirds of qed, logp or weight.")
    ] = None,
    hold_out: Annotated[
        str | None, typer.Option("--hold-out", help="Molecules are held out by content or by scaffold.")
    ] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Have the product draw by class.")] = False,
) -> None:
    """Look at your own data and write them into params.yaml, with a product, runs and a DVC stage."""
    from components.data.add import add, describe
    from components.project import open_project

    project = open_project()
    given: dict[str, Any] = {"channels": channels, "fit": fit, "image": image, "label": label}
    given |= {"caption": caption, "size": None if size is None else _size(size)}
    given |= {"tokenizer": tokenizer, "context": context, "unit": unit}
    given |= {"rate": rate, "seconds": seconds, "notation": notation, "steps": steps}
    given |= {"horizon": horizon, "season": season, "time": time}
    given |= {"smiles": smiles, "bands": bands, "hold_out": hold_out}
    options = {key: value for key, value in given.items() if value is not None}
    _check_options(options)
    row = describe(project, path, {**options, "licence": licence})
    _say_added(name, row, by_class, add(project, name, row, by_class))


def _say_added(name: str, row: OwnRow, by_class: bool, found: Survey) -> None:
    """Say what was found, what is left out, and what to do next."""
    from components.data.add import goal

    classes = ", ".join(f"{label} {count}" for label, count in found.classes.items())
    print(
        f"{found.entries} {ENTRIES[row.modality]}"
        + (f" in {len(found.classes)} classes: {classes}" if classes else "")
    )
    for reason, count in found.dropped.items():
        print(f"{count} left out: {reason}")
    for note in found.notes:
        print(note)
    if found.ignored:
        print(f"columns not used: {', '.join(found.ignored)}")
    task, families = goal(row, by_class, len(found.classes))
    runs = " and ".join(f"{name}-{family}" for family in families)
    drawn = "" if task == "free" else f" (task {task})"
    beside = f" with the run{'s' if ' and ' in runs else ''} {runs}" if runs else ""
    print(
        f"Added the dataset and product “{name}”{drawn}{beside} to params.yaml, "
        f"and the stage prepare-{name} to dvc.yaml.\nNext: genloom data prepare {name}"
    )


def _check_options(options: dict[str, Any]) -> None:
    """Raise `UserError` for a value that no row may have."""
    if options.get("channels", 3) not in (1, 3):
        raise UserError(f"--channels is {options['channels']}; take 3 for colour or 1 for grey.")
    if not 8 <= options.get("context", 8) <= 65_536:
        raise UserError(f"--context is {options['context']}; take a number from 8 to 65536.")
    for option, most in (("horizon", 4096), ("season", 16_384)):
        if not 1 <= options.get(option, 1) <= most:
            raise UserError(f"--{option} is {options[option]}; take a number of steps from 1 to {most}.")
    if not 4000 <= options.get("rate", 4000) <= 48_000:
        raise UserError(f"--rate is {options['rate']}; take samples a second from 4000 to 48000.")
    if not 0.05 <= options.get("seconds", 1) <= 30:
        raise UserError(f"--seconds is {options['seconds']:g}; take a length from 0.05 to 30.")
    if not 1 <= options.get("steps", 1) <= 24:
        raise UserError(f"--steps is {options['steps']}; take steps a quarter from 1 to 24.")
    for option, values in CHOICES.items():
        if options.get(option, values[0]) not in values:
            raise UserError(
                f"--{option.replace('_', '-')} is “{options[option]}”; take {', '.join(values[:-1])} or {values[-1]}."
            )


def prepare_datasets(
    names: Annotated[list[str] | None, typer.Argument(help="Datasets; all if none is named.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare again even what is unchanged.")] = False,
) -> None:
    """Bring datasets up to date with their sources; says where the report and the preview are."""
    from components.data.prepare import reproduce
    from components.project import open_project

    project = open_project()
    with Bars() as bars:
        datasets = reproduce(project, names or list(project.tables.datasets), force, bars)
    for dataset in datasets:
        _say(dataset)


def show_dataset(name: Name, as_json: AsJson = False) -> None:
    """Show what was read, kept and left out, and the rows of each split."""
    from components.data.dataset import whole
    from components.project import open_project

    project = open_project()
    row = project.dataset(name)
    manifest, report = _read(project, name, "dataset.json"), _read(project, name, "report.json")
    if not manifest:
        raise UserError(f"The dataset “{name}” is not prepared; type genloom data prepare {name}.")
    folder = project.prepared / name
    with whole(folder / "dataset.json"):
        found = {key: manifest[key] for key in ("revision", "shape", "classes")}
    with whole(folder / "report.json"):
        found |= {key: report[key] for key in ("read", "kept", "dropped", "ignored_columns", "splits")}
        found |= {key: report[key] for key in ("cut", "gaps") if key in report}
    content: dict[str, Any] = {
        "name": name,
        "source": row.source,
        "licence": row.licence,
        **found,
        "report": str(folder / "report.json"),
        "preview": str(_preview(folder)),
    }
    if not as_json:
        content["dropped"] = {
            reason: found["count"] for reason, found in content["dropped"].items()
        } or "nothing"
        content["ignored_columns"] = content["ignored_columns"] or None
        content["revision"] = manifest["revision"][:10]
        content["splits"] = {split: _size_of(found) for split, found in content["splits"].items()}
    facts(content, as_json)


def _size_of(split: dict[str, Any]) -> str | int:
    """The rows of a split; of others than pictures also what they hold."""
    if "minutes" in split:
        return f"{split['rows']} rows, {split['minutes']} minutes"
    if "pieces" in split:
        return f"{split['rows']} rows, {split['pieces']} pieces, {split['tokens']} tokens"
    if "molecules" in split:
        return (
            f"{split['rows']} rows, {split['molecules']} molecules of {split['scaffolds']} scaffolds, "
            f"{split['tokens']} tokens"
        )
    if "documents" not in split:
        return int(split["rows"])
    return f"{split['rows']} rows, {split['documents']} documents, {split['tokens']} tokens"


def diff_dataset(
    name: Name,
    commit: Annotated[str, typer.Option("--commit", help="A git commit, tag or branch.")] = "HEAD",
    as_json: AsJson = False,
) -> None:
    """Show how many rows came and went since a commit, split by split."""
    from components.data.changes import changes
    from components.project import open_project

    listing([dataclasses.asdict(change) for change in changes(open_project(), name, commit)], as_json)


def check_out(name: Name) -> None:
    """Put back the prepared data that dvc.lock names, from DVC's cache."""
    from components.data.stages import checkout
    from components.project import open_project

    _say(checkout(open_project(), name))


def _size(text: str) -> tuple[int, int]:
    """(height, width) of `32` or `48x64`."""
    parts = text.split("x")
    sides = [int(part) if part.isdecimal() else 0 for part in parts]
    if len(parts) > 2 or not all(4 <= side <= 1024 for side in sides):
        raise UserError(f"--size is “{text}”; write pixels a side, or WIDTHxHEIGHT, each from 4 to 1024.")
    return sides[-1], sides[0]


def _read(project: Project, name: str, file: str) -> dict[str, Any]:
    """A JSON file of a prepared dataset, empty if there is none."""
    from components.data.dataset import whole

    path = project.prepared / name / file
    if not path.is_file():
        return {}
    with whole(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content.items())


def _prepared(project: Project, name: str) -> tuple[str, int | None, str | None]:
    """Whether a dataset is prepared (yes, no or damaged), its rows, and its revision."""
    from components.data.dataset import whole

    try:
        manifest = _read(project, name, "dataset.json")
        if not manifest:
            return "no", None, None
        with whole(project.prepared / name / "dataset.json"):
            rows = sum(facts["rows"] for facts in manifest["files"].values())
            return "yes", rows, manifest["revision"][:10]
    except UserError:
        return "damaged", None, None


def _say(dataset: Dataset) -> None:
    rows = ", ".join(f"{split} {dataset.rows(split)}" for split in ("train", "val", "test"))
    print(f"{dataset.name}: {rows} rows, revision {dataset.revision[:10]}")
    print(f"  report  {dataset.folder / 'report.json'}\n  preview {_preview(dataset.folder)}")


def _preview(folder: Path) -> Path:
    """The picture or the text that shows what was prepared."""
    return next(iter(sorted(folder.glob("preview.*"))), folder / "preview.png")
