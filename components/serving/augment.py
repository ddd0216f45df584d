"""A labelled dataset out of a model of classes: class folders of PNG, which say who drew them."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from components import files
from components.errors import UserError
from components.serving.catalog import SEEDS
from components.serving.draw import DRAW, ask, at_once
from components.serving.place import Place

PLAN, METADATA, LOCK = ".augment.json", "metadata.jsonl", ".augment.lock"
"""What a folder is made of, hidden from those who read the pictures; the list of its pictures; who fills it."""
LONGEST = 255
"""The most bytes of a folder's name."""
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
class Samples:
    """`each` pictures of every class, whose folders are `inner`; made when asked for, as they may be millions."""

    place: Place
    inner: Mapping[str, str]
    each: int
    seed: int

    def __len__(self) -> int:
        return len(self.inner) * self.each

    def __iter__(self) -> Iterator[Sample]:
        start = f"{self.place.product}-{self.place.version}"
        for number, (label, inner) in enumerate(self.inner.items()):
            for row in range(self.each):
                own = (self.seed + number * APART + row) % 2**63
                yield Sample(label, own, f"{inner}/{start}-{own}.png")


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
    classes, for a folder of other samples, and for one that another command fills.
    """
    classes = list(place.about.get("classes", ()))
    if not classes:
        raise UserError(
            f"{place.product} draws without classes, so its pictures have no labels; augment with a product whose "
            "task is label."
        )
    if place.about.get("visible"):
        raise UserError(
            f"The pictures of {place.product} have captions, which a model would learn; set visible: false in "
            f"products.{place.product}, and serve it again if it is served."
        )
    inner = _folders(place.product, classes)
    _check(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, blocking=False):
            plan = _plan(place, folder, seed, options)
            samples = Samples(place, dict(zip(classes, inner, strict=True)), each, int(plan["seed"]))
            made = _filled(place, folder, samples, options, progress)
            _listed(folder, samples, plan)
    except Timeout as error:
        raise UserError(
            f"{folder} is being filled by another command; wait for its end, or name another folder with -o."
        ) from error
    return Augmented(classes, each, made, int(plan["seed"]))


def _filled(
    place: Place, folder: Path, samples: Samples, options: Mapping[str, Any], progress: Progress
) -> int:
    """Draw what is missing, and say how much that was."""
    made, kept = 0, sum((folder / sample.file).is_file() for sample in samples)
    progress(kept, len(samples))
    missing = (sample for sample in samples if not (folder / sample.file).is_file())
    for part in _parts(missing, at_once(options.get("size"), AT_ONCE)):
        _draw(place, folder, part, options)
        made += len(part)
        progress(kept + made, len(samples))
    return made


def _listed(folder: Path, samples: Samples, plan: Mapping[str, Any]) -> None:
    """Write the list of the pictures at once: of all that are there, also where more were asked for before."""
    there = {
        inner: {path.name for path in (folder / inner).glob("*.png")} for inner in samples.inner.values()
    }
    every = replace(
        samples, each=max(samples.each, *(1 + row for row in _rows(there.values(), samples.seed)))
    )
    with files.draft(folder / METADATA) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        for sample in every:
            inner, _, name = sample.file.partition("/")
            if name in there[inner]:
                file.write(_line(sample, plan))


def _rows(names: Iterable[Iterable[str]], seed: int) -> Iterator[int]:
    """The places within their classes of the pictures called so, by the seeds in their names."""
    for number, own in enumerate(names):
        for name in own:
            found = Path(name).stem.rpartition("-")[2]
            row = (int(found) - seed - number * APART) % 2**63 if found.isdecimal() else APART
            if row < APART:
                yield row


def _check(folder: Path) -> None:
    """Raise `UserError` for a folder that holds what no augmenting has begun."""
    begun = not folder.is_dir() or (folder / PLAN).is_file()
    if not begun and any(path.name != LOCK for path in folder.iterdir()):
        raise UserError(f"{folder} holds something else already; name a new or an empty folder with -o.")


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
    plan = {**mine, "seed": secrets.randbelow(SEEDS) if seed is None else seed}
    files.write(file, json.dumps(plan))
    return plan


def _folders(product: str, classes: Sequence[str]) -> list[str]:
    """The folder of each class: its name, or its number where the name cannot be that of a folder."""
    inner = [label if _plain(label) else f"class-{number}" for number, label in enumerate(classes)]
    twice = next((name for name, count in Counter(inner).items() if count > 1), None)
    if twice is not None:
        raise UserError(
            f"Two classes of {product} would share the folder {twice}; give them other names in the dataset, and "
            "train again."
        )
    return inner


def _plain(label: str) -> bool:
    """Whether a folder can have the name `label` and is not hidden by it."""
    fits = 0 < len(label.encode("utf-8", "replace")) <= LONGEST
    return fits and not label.startswith(".") and not {"/", "\0"} & set(label)


def _parts(samples: Iterable[Sample], most: int) -> Iterator[list[Sample]]:
    """Samples that one request can draw: at most `most`, of one class, with seeds that count up."""
    part: list[Sample] = []
    for sample in samples:
        follows = part and part[-1].label == sample.label and part[-1].seed + 1 == sample.seed
        if part and not (follows and len(part) < most):
            yield part
            part = []
        part.append(sample)
    if part:
        yield part


def _draw(place: Place, folder: Path, part: Sequence[Sample], options: Mapping[str, Any]) -> None:
    body = {**options, "label": part[0].label, "n": len(part), "seed": part[0].seed}
    drawn = ask(place, DRAW, body).files
    if len(drawn) < len(part):
        raise UserError(
            f"The content filter of {place.product} withholds {len(part) - len(drawn)} of {len(part)} pictures; take "
            "it out of params.yaml and serve again, or augment while nothing is served."
        )
    for sample, file in zip(part, drawn, strict=True):
        path = folder / sample.file
        path.parent.mkdir(exist_ok=True)
        files.write(path, file)


def _line(sample: Sample, plan: Mapping[str, Any]) -> str:
    content = {"file_name": sample.file, "label": sample.label, **plan, "seed": sample.seed}
    return json.dumps(content, ensure_ascii=False) + "\n"
