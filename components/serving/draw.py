"""Pictures for the command line: by the running server, or by a model loaded here."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

from components.errors import UserError
from components.modalities.image import ImageRequest, grid
from components.serving import client
from components.serving.catalog import SEEDS
from components.serving.place import Place
from components.serving.routes.errors import sentence

AT_ONCE = 128
"""Pictures of one request."""


@dataclass(frozen=True)
class Target:
    """Where pictures go: one PNG, or a folder of them."""

    path: Path
    folder: bool


@dataclass(frozen=True)
class Drawing:
    """Files in the order of their seeds, which count up from `seed`; `where` says who computed them."""

    product: str
    files: list[bytes]
    version: int
    seed: int
    where: str


def check_target(path: Path) -> Target:
    """Where the pictures will be written, checked before anything is drawn. Raises `UserError`."""
    folder = path.is_dir() or (path.suffix == "" and not path.exists())
    if not folder and path.suffix.lower() != ".png":
        raise UserError(f"The pictures are PNG; name the file {path.with_suffix('.png')}, or name a folder.")
    parent = path if path.is_dir() else path.parent
    if not parent.is_dir():
        raise UserError(f"There is no folder {parent}; make it first, or write elsewhere with -o.")
    if not os.access(parent, os.W_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise UserError(f"{path} cannot be written; change its permissions, or write elsewhere with -o.")
    return Target(path, folder)


def draw(place: Place, number: int, seed: int | None, size: str) -> Drawing:
    """Draw `number` pictures. Raises `UserError` for a size or a seed that cannot be."""
    first = secrets.randbelow(SEEDS) if seed is None else seed
    bodies = [_body(place.product, *part, size) for part in _parts(number, first)]
    if place.loaded is not None:
        files = [file for body in bodies for file in place.loaded.generate(body)[0]]
        return Drawing(place.product, files, place.version, first, place.where)
    assert place.url is not None
    answers = [client.ask(place.url, body.model_dump()) for body in bodies]
    files = [file for answer in answers for file in answer.files]
    return Drawing(place.product, files, answers[0].version, first, place.where)


def write(target: Target, drawing: Drawing) -> str:
    """Write the pictures, each file at once, and say which: one PNG, a grid, or files in a folder."""
    if not target.folder:
        _replace(target.path, drawing.files[0] if len(drawing.files) == 1 else sheet(drawing.files))
        return str(target.path)
    target.path.mkdir(exist_ok=True)
    for place, file in enumerate(drawing.files):
        _replace(target.path / f"{drawing.product}-{drawing.version}-{drawing.seed + place}.png", file)
    return f"{len(drawing.files)} files in {target.path}"


def sheet(files: Sequence[bytes]) -> bytes:
    """One PNG with all pictures, nearly square."""
    pictures = np.stack([np.atleast_3d(np.asarray(Image.open(io.BytesIO(file)))) for file in files])
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2).to(torch.float32)
    return grid(data * (2.0 / 255.0) - 1.0)


def _parts(number: int, seed: int) -> Iterator[tuple[int, int]]:
    """Count and first seed of each request that together make `number` pictures."""
    for done in range(0, number, AT_ONCE):
        yield min(AT_ONCE, number - done), (seed + done) % 2**63


def _body(product: str, number: int, seed: int, size: str) -> ImageRequest:
    content: dict[str, Any] = {"model": product, "n": number, "seed": seed, "size": size}
    try:
        return ImageRequest.model_validate(content)
    except ValidationError as error:
        raise UserError(sentence(dict(error.errors()[0]), ImageRequest)[0]) from error


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
