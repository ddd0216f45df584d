"""A labelled dataset out of a model of classes: class folders of PNG, which say who drew them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.serving.catalog import SEEDS
from components.serving.draw import DRAW, ask, replace
from components.serving.place import Place

PLAN, METADATA = ".augment.json", "metadata.jsonl"
"""What a folder is made of, hidden from those who read the pictures; and the list of its pictures."""
APART = 1_000_000
"""Seeds of each class, so the most pictures that it can have."""
AT_ONCE = 64
"""Pictures of one request."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sample:
    """One picture: its class, its seed and its file below the folder."""

    label: str
    seed: int
    file: str


@dataclass(frozen=True)
class Augmented:
    """What was done: pictures of each class, how many are new, and the seed of the first."""

    classes: Sequence[str]
    each: int
    made: int
    seed: int


def augment(
    place: Place,
    folder: Path,
    each: int,
    seed: int | None,
    options: Mapping[str, Any],
    progress: Progress,
) -> Augmented:
    """Draw `each` pictures of every class into `folder`; those that are there already are kept.

    Picture i of class c has the seed of the first + 1,000,000·c + i. Raises `UserError` for a model without
    classes, and for a folder of other samples.
    """
    classes = list(place.about.get("classes", ()))
    if not classes:
        raise UserError(
            f"{place.product} draws without classes, so its pictures have no labels; augment with a product whose "
            "task is label."
        )
    plan = _plan(place, folder, seed, options)
    samples = _samples(place, classes, each, int(plan["seed"]))
    missing = [sample for sample in samples if not (folder / sample.file).is_file()]
    done = len(samples) - len(missing)
    progress(done, len(samples))
    for part in _parts(missing):
        _draw(place, folder, part, options)
        done += len(part)
        progress(done, len(samples))
    lines = [_line(sample, plan) for sample in samples]
    replace(folder / METADATA, "".join(lines).encode("utf-8"))
    return Augmented(classes, each, len(missing), int(plan["seed"]))


def _plan(place: Place, folder: Path, seed: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the folder is made of, written before its first picture; that of a folder that was begun holds on."""
    given = {name: value for name, value in options.items() if value is not None}
    mine = {"product": place.product, "version": place.version, "digest": place.about["digest"], **given}
    file = folder / PLAN
    if file.is_file():
        try:
            plan: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
            first = int(plan["seed"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged; name another folder with -o.") from error
        if {name: value for name, value in plan.items() if name != "seed"} != mine or seed not in (
            None,
            first,
        ):
            raise UserError(
                f"{folder} holds samples of {plan.get('product')}/{plan.get('version')} with seed {first} and other "
                "settings; ask for the same, or name another folder with -o."
            )
        return plan
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder} holds something else already; name a new or an empty folder with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    plan = {**mine, "seed": secrets.randbelow(SEEDS) if seed is None else seed}
    replace(file, json.dumps(plan).encode("utf-8"))
    return plan


def _samples(place: Place, classes: Sequence[str], each: int, seed: int) -> list[Sample]:
    found = []
    for number, label in enumerate(classes):
        plain = "/" not in label and "\0" not in label and not label.startswith(".")
        inner = label if plain else f"class-{number}"
        for row in range(each):
            own = (seed + number * APART + row) % 2**63
            found.append(Sample(label, own, f"{inner}/{place.product}-{place.version}-{own}.png"))
    return found


def _parts(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples that one request can draw: of one class, with seeds that count up."""
    parts: list[list[Sample]] = []
    for sample in samples:
        last = parts[-1] if parts else []
        follows = last and last[-1].label == sample.label and last[-1].seed + 1 == sample.seed
        if follows and len(last) < AT_ONCE:
            last.append(sample)
        else:
            parts.append([sample])
    return parts


def _draw(place: Place, folder: Path, part: Sequence[Sample], options: Mapping[str, Any]) -> None:
    body = {**options, "label": part[0].label, "n": len(part), "seed": part[0].seed}
    answer = ask(place, DRAW, body)
    if answer.version != place.version:
        raise UserError(
            f"The server serves {place.product}/{answer.version} since just now; the same command with "
            f"--version {place.version} goes on from where it was."
        )
    for sample, file in zip(part, answer.files, strict=True):
        path = folder / sample.file
        path.parent.mkdir(exist_ok=True)
        replace(path, file)


def _line(sample: Sample, plan: Mapping[str, Any]) -> str:
    content = {"file_name": sample.file, "label": sample.label, **plan, "seed": sample.seed}
    return json.dumps(content, ensure_ascii=False) + "\n"
