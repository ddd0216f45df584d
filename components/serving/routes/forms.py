"""Bodies that hold files: a form as OpenAI's clients send it, or JSON; read by the same rules as all others."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from email.message import Message
from email.parser import BytesParser
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from components.errors import UserError

T = TypeVar("T", bound=BaseModel)
LISTED = re.compile(r"\[\d*\]$")
"""What a client puts behind the name of a field that holds several files."""
PARTS = 64
"""The most parts of a form."""
HEADER = 8192
"""The most bytes of what stands before a part's content."""
PARAMETERS = 64
"""The most semicolons there, and in the form's own header: Python reads them in quadratic time."""
COMMAS = 8192
"""The most commas of JSON, which the longest prompt and all fields together do not reach."""

COUNTED = {list: "files", bytes: "bytes", dict: "fields"}
"""What a wrong value has so many of."""


async def read(request: Request, kind: type[T]) -> T:
    """The body of `request` as a `kind`, read beside the loop. Raises what FastAPI raises."""
    content, sent = await request.body(), request.headers.get("content-type", "")
    return await asyncio.to_thread(parsed, content, sent, kind)


def parsed(content: bytes, sent: str, kind: type[T]) -> T:
    """`content` of the type `sent` as a `kind`; a form's numbers are written as text. Raises what FastAPI raises."""
    form = sent.lower().startswith("multipart/form-data")
    try:
        return kind.model_validate(fields(content, sent) if form else _json(content, sent), strict=not form)
    except ValidationError as error:
        raise RequestValidationError([_told(one) for one in error.errors(include_url=False)]) from error


def _told(error: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as FastAPI words it, without the bytes of files and without what is long."""
    value = error["input"]
    match value:
        case str():
            value = value[:HEADER]
        case list() | bytes() | dict():
            value = f"{len(value)} {COUNTED[type(value)]}"
    return {**error, "loc": ("body", *error["loc"]), "input": value}


def _json(content: bytes, sent: str) -> Any:
    if not sent.lower().startswith("application/json"):
        raise UserError(
            "The body must be a form of files, sent with the header content-type: multipart/form-data, or a JSON "
            "object, sent with content-type: application/json."
        )
    commas = content.count(b",")
    if commas > COMMAS:
        raise UserError(
            f"The body has {commas} commas and may have {COMMAS}; send the route's own fields only."
        )
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        broken = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([broken]) from error
    except UnicodeDecodeError as error:
        raise UserError("The body is no JSON in UTF-8; encode it so.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            "The body is no JSON that can be read, as a number is too long or lists are too deep; send smaller ones."
        ) from error


def fields(content: bytes, sent: str) -> dict[str, Any]:
    """The fields of a form by RFC 7578: texts, files as bytes, and lists of what comes more than once."""
    found: dict[str, list[str | bytes]] = {}
    several: set[str] = set()
    for piece in _pieces(content, sent):
        name, value = _field(piece)
        plain = LISTED.sub("", name)
        if plain in found or plain != name:
            several.add(plain)
        found.setdefault(plain, []).append(value)
    return {name: values if name in several else values[0] for name, values in found.items()}


def _pieces(content: bytes, sent: str) -> list[bytes]:
    """What stands between the boundaries of a form."""
    boundary = _boundary(sent)
    pieces = [] if boundary is None else (b"\r\n" + content).split(b"\r\n--" + boundary, PARTS + 1)
    whole = len(pieces) >= 3 and pieces[-1].startswith(b"--")
    if len(pieces) == PARTS + 2 and not whole:
        raise UserError(f"The form has more than {PARTS} parts; send fewer, or several forms.")
    if not whole:
        raise UserError("The form is not whole; send its parts between the boundaries that its header names.")
    return pieces[1:-1]


def _boundary(sent: str) -> bytes | None:
    message = Message()
    message["content-type"] = sent
    try:
        if sent.count(";") > PARAMETERS:
            raise ValueError(f"more than {PARAMETERS} semicolons")
        boundary = message.get_boundary()
        return None if boundary is None else boundary.encode("latin-1")
    except (ValueError, LookupError) as error:
        raise UserError("The boundary in the form's header cannot be read; send one of ASCII.") from error


def _field(piece: bytes) -> tuple[str, str | bytes]:
    head, _, value = piece.partition(b"\r\n\r\n")
    if len(head) > HEADER or head.count(b";") > PARAMETERS:
        raise UserError(
            f"A part of the form has a header of more than {HEADER} bytes or {PARAMETERS} semicolons; send a short one."
        )
    name, file = _named(head)
    if file:
        return name, value
    try:
        return name, value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"The field “{name[:80]}” of the form is no text in UTF-8; send it as a file."
        ) from error


def _named(head: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it is a file."""
    try:
        about = BytesParser().parsebytes(head.lstrip() + b"\r\n\r\n", headersonly=True)
        name, file = about.get_param("name", header="content-disposition"), about.get_filename()
    except (ValueError, LookupError) as error:  # numbers and encodings of RFC 2231
        raise UserError("The header of a part of the form cannot be read; name the part in ASCII.") from error
    if not isinstance(name, str):
        raise UserError("A part of the form has no name; send one with every part.")
    return name, file is not None
