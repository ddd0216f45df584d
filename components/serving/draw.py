"""Files for the command line, pictures or sound: by the running server, or by a model loaded here."""

from __future__ import annotations

import io
import math
import os
import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ValidationError

from components import files
from components.errors import FailedError, UserError
from components.labels.formats import PCM, PNG, TEXT, format_of, media_type_of
from components.labels.marker import Marker, lay_beside
from components.modalities.drawing import PIXELS, ImageRequest, PictureBody
from components.modalities.editing import ImageEditRequest, ImageVariationRequest
from components.modalities.image import grid
from components.modalities.modality import kind_of
from components.serving import client
from components.serving.catalog import SEEDS, Withheld
from components.serving.marking import marked
from components.serving.place import Place
from components.serving.routes.errors import sentence

B = TypeVar("B", bound=BaseModel)
AT_ONCE = 128
"""Pictures of one request."""
DRAW, EDIT, VARY = "/v1/images/generations", "/v1/images/edits", "/v1/images/variations"
RECORD = "/v1/generations"
BODIES: Mapping[str, type[PictureBody]] = {
    DRAW: ImageRequest,
    EDIT: ImageEditRequest,
    VARY: ImageVariationRequest,
}


@dataclass(frozen=True)
class Target:
    """Where files go: one, or a folder of them."""

    path: Path
    folder: bool


@dataclass(frozen=True)
class Drawing:
    """Files with the name that each has in a folder, and its seed; `where` says who computed them.

    `seed` is the first that was asked for; `withheld` has those whose files the content filter held back, and why;
    `what` is what one file is; `marker` marks one that is made of several.
    """

    product: str
    version: int
    where: str
    seed: int
    files: list[bytes]
    names: list[str]
    seeds: list[int]
    labels: list[str | None]
    withheld: dict[int, str]
    what: str
    marker: Marker | None = None


def check_target(
    path: Path, kinds: Sequence[str] = (".png",), what: str = "pictures", folders: bool = True
) -> Target:
    """Where the files of these `kinds` will be written, checked before anything is drawn. Raises `UserError`.

    Unless there may be `folders`, it is one file.
    """
    folder = path.is_dir() or (path.suffix == "" and not path.exists())
    if (not folder or not folders) and path.suffix.lower() not in kinds:
        names = " or ".join(kind.removeprefix(".").upper() for kind in kinds)
        named = path / f"out{kinds[0]}" if path.is_dir() else path.with_suffix(kinds[0])
        instead = ", or name a folder" if folders else ""
        raise UserError(f"The {what} are {names}; name the file {named}{instead}.")
    parent = path if path.is_dir() else path.parent
    if not parent.is_dir():
        raise UserError(f"There is no folder {parent}; make it first, or write elsewhere with -o.")
    if not os.access(parent, os.W_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise UserError(f"{path} cannot be written; change its permissions, or write elsewhere with -o.")
    return Target(path, folder)


def draw(
    place: Place,
    number: int,
    seed: int | None,
    asked: Mapping[str, Any],
    route: str = DRAW,
    kind: str = ".png",
) -> Drawing:
    """Draw `number` files of a `kind` as `asked` says (size, label, prompt, options). Raises `UserError`.

    `FailedError` if the content filter lets none out.
    """
    first = secrets.randbelow(SEEDS) if seed is None else seed
    most = at_once(asked.get("size"), AT_ONCE)
    bodies = [{**asked, "n": count, "seed": own} for count, own in parts(number, first, most)]
    answers = [ask(place, route, body) for body in bodies]
    drawing = _together(place, first, answers)
    names = [f"{place.product}-{drawing.version}-{own}{kind}" for own in drawing.seeds]
    drawing.names.extend(names)
    return drawing


def edit(
    place: Place, paths: Sequence[Path], number: int, seed: int | None, asked: Mapping[str, Any]
) -> Drawing:
    """Turn each of the pictures into `number` others, or vary it, whichever the model can. Raises as `draw`."""
    route = VARY if VARY in place.about["routes"] else EDIT
    first = secrets.randbelow(SEEDS) if seed is None else seed
    given = {name: content(value) if isinstance(value, Path) else value for name, value in asked.items()}
    answers = []
    for turn, path in enumerate(paths):
        own = (first + turn * number) % 2**63
        answers.append(ask(place, route, {**given, "image": content(path), "n": number, "seed": own}))
    drawing = _together(place, first, answers)
    for path, answer in zip(paths, answers, strict=True):
        several = [f"{path.stem}-{own}.png" for own in answer.seeds]
        drawing.names.extend(several if number > 1 else [f"{path.stem}.png" for _ in several])
    return drawing


def content(path: Path, what: str = "a picture") -> str:
    """A file as Base64, as requests carry it; raises `UserError`."""
    try:
        return b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name {what}.") from error


def ask(place: Place, route: str, asked: Mapping[str, Any]) -> client.Answer:
    """The answer to one request, checked here, whoever computes it. Raises `UserError`.

    So it does if the server has gone over to another version since `place` was found.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    body = body_of(BODIES.get(route) or kind_of(place.modality).request, given)
    if place.loaded is None:
        assert place.url is not None
        try:
            answer = client.ask(place.url, route, {"model": place.asked, **given})
        except client.WithheldError as error:
            return _nothing(place, given, Withheld.of(str(error)).reason)
        check_version(place, answer.version)
        return answer
    files, order = place.loaded.generate(body)
    own = [
        marked(place.loaded, file, seed, order.media_type)
        for file, seed in zip(files, order.seeds, strict=True)
    ]
    return client.Answer(own, place.version, list(order.seeds), list(order.labels))


def check_version(place: Place, version: int) -> None:
    """Raise `UserError` unless the server answered with the `version` that was looked up."""
    if version != place.version:
        raise UserError(
            f"The server serves {place.product}/{version} since just now; ask again, or go on with "
            f"--version {place.version}."
        )


def _nothing(place: Place, given: Mapping[str, Any], reason: str) -> client.Answer:
    """The answer to a request of which all was withheld."""
    withheld = {(int(given["seed"]) + row) % 2**63: reason for row in range(int(given["n"]))}
    return client.Answer([], place.version, [], [], withheld)


def _together(place: Place, first: int, answers: Sequence[client.Answer]) -> Drawing:
    withheld = {seed: reason for answer in answers for seed, reason in answer.withheld.items()}
    if not any(answer.files for answer in answers):
        raise FailedError(
            f"{held_back(place.product, withheld, 0, what_of(place))}; ask with another --seed."
        )
    return Drawing(
        product=place.product,
        version=place.version,
        where=place.where,
        seed=first,
        files=[file for answer in answers for file in answer.files],
        names=[],
        seeds=[own for answer in answers for own in answer.seeds],
        labels=[label for answer in answers for label in answer.labels],
        withheld=withheld,
        what=what_of(place),
        marker=place.marker,
    )


def what_of(place: Place) -> str:
    """What one file of the model at `place` is."""
    return {"audio": "recording", "music": "piece"}.get(place.modality, "picture")


def held_back(product: str, withheld: Mapping[int, str], rest: int, what: str) -> str:
    """How many files the content filter withheld and why, for a person; `rest` were let out."""
    reasons = ", ".join(f"{reason}: {count}" for reason, count in Counter(withheld.values()).most_common())
    of = f"{len(withheld)} of {len(withheld) + rest} {what}s" if rest else f"every {what}"
    return f"The content filter of {product} withheld {of} ({reasons})"


def check_apart(paths: Iterable[Path], given: Iterable[Path]) -> None:
    """Raise `UserError` if one of `paths`, where pictures are to go, is one of those that were `given`."""
    known = {path.resolve() for path in given}
    for path in paths:
        if path.resolve() in known:
            raise UserError(
                f"The answer would take the place of {path}, which was given; write elsewhere with -o."
            )


def sheet(files: Sequence[bytes]) -> bytes:
    """One PNG with all pictures, nearly square."""
    pictures = np.stack([np.atleast_3d(np.asarray(Image.open(io.BytesIO(file)))) for file in files])
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.float32)
    return grid(data * (2.0 / 255.0) - 1.0)


def write(
    target: Target,
    drawing: Drawing,
    given: Sequence[Path] = (),
    joined: Callable[[Sequence[bytes]], bytes] = sheet,
) -> list[Path]:
    """Write the files, each at once, and say which: one, several `joined` into one, or files in a folder.

    Raises `UserError` before anything is written if a file would replace one of those that were `given`.
    """
    if not target.folder:
        check_apart([target.path], given)
        whole = drawing.files[0] if len(drawing.files) == 1 else _marked(drawing, joined(drawing.files))
        files.write(target.path, whole)
        _lay_beside(drawing, target.path, whole, drawing.seed)
        return [target.path]
    paths = [target.path / name for name in drawing.names]
    check_apart(paths, given)
    target.path.mkdir(exist_ok=True)
    for path, file, seed in zip(paths, drawing.files, drawing.seeds, strict=True):
        files.write(path, file)
        _lay_beside(drawing, path, file, seed)
    return paths


def _lay_beside(drawing: Drawing, path: Path, file: bytes, seed: int) -> None:
    """Say beside a file which has no place for a mark what a mark would say."""
    kind = PCM if path.suffix.lower() == ".pcm" else media_type_of(file) or ""
    if format_of(kind).put is None:
        lay_beside(drawing.marker, path, kind, seed)


def _marked(drawing: Drawing, file: bytes) -> bytes:
    """One file made of several, which has lost their marks, with its own; its seed is the first one's."""
    kind = media_type_of(file)
    if drawing.marker is None or kind is None:
        return file
    return drawing.marker.mark(file, kind, drawing.seed)[0]


def write_pictured(
    marker: Marker | None, path: Path, content: bytes, picture: bytes, seed: int
) -> list[Path]:
    """Write a text such as CSV or SMILES with its mark beside it, and a picture of it; the paths of both."""
    beside = path.with_suffix(".png")
    files.write(path, content)
    lay_beside(marker, path, TEXT, seed)
    files.write(beside, marked_picture(marker, picture, seed))
    return [path, beside]


def marked_picture(marker: Marker | None, picture: bytes, seed: int) -> bytes:
    """A picture of what a model made, with the mark of that."""
    return picture if marker is None else marker.mark(picture, PNG, seed)[0]


def at_once(size: str | None, most: int) -> int:
    """How many pictures of `size` one request may ask for, at most `most`."""
    sides = [int(side) for side in (size or "").split("x") if side.isdecimal()]
    return min(most, max(1, PIXELS // max(1, math.prod(sides))))


def parts(number: int, seed: int, most: int) -> Iterator[tuple[int, int]]:
    """Count and first seed of each request that together make `number` answers."""
    for done in range(0, number, most):
        yield min(most, number - done), (seed + done) % 2**63


def body_of(kind: type[B], given: Mapping[str, Any]) -> B:
    """`given` as a `kind` reads it; raises `UserError`."""
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UserError(sentence(dict(error.errors()[0]), kind)[0]) from error
