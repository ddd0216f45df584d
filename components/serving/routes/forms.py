"""Bodies that hold files: a form as OpenAI's clients send it, or JSON; read by the same rules as all others."""

from __future__ import annotations

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


async def read(request: Request, kind: type[T]) -> T:
    """The body of `request` as a `kind`; a form's numbers are written as text. Raises what FastAPI raises."""
    content, sent = await request.body(), request.headers.get("content-type", "")
    form = sent.startswith("multipart/form-data")
    try:
        return kind.model_validate(fields(content, sent) if form else _json(content, sent), strict=not form)
    except ValidationError as error:
        raise RequestValidationError([_told(one) for one in error.errors(include_url=False)]) from error


def _told(error: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as FastAPI words it, without the bytes of files."""
    value = error["input"]
    if isinstance(value, list | bytes):
        value = f"{len(value)} {'files' if isinstance(value, list) else 'bytes'}"
    return {**error, "loc": ("body", *error["loc"]), "input": value}


def _json(content: bytes, sent: str) -> Any:
    if not sent.startswith("application/json"):
        raise UserError(
            "The body must be a form of files, sent with the header content-type: multipart/form-data, or a JSON "
            "object, sent with content-type: application/json."
        )
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        broken = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([broken]) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError("The body is no JSON in UTF-8; encode it so.") from error


def fields(content: bytes, sent: str) -> dict[str, Any]:
    """The fields of a form by RFC 7578: texts, files as bytes, and lists of what comes more than once."""
    message = Message()
    message["content-type"] = sent
    boundary = message.get_boundary()
    pieces = [] if boundary is None else (b"\r\n" + content).split(b"\r\n--" + boundary.encode("latin-1"))
    if len(pieces) < 3 or not pieces[-1].startswith(b"--"):
        raise UserError("The form is not whole; send its parts between the boundaries that its header names.")
    found: dict[str, Any] = {}
    for piece in pieces[1:-1]:
        name, value = _field(piece)
        plain = LISTED.sub("", name)
        if plain in found:
            before = found[plain]
            found[plain] = [*before, value] if isinstance(before, list) else [before, value]
        else:
            found[plain] = value if plain == name else [value]
    return found


def _field(piece: bytes) -> tuple[str, str | bytes]:
    head, _, value = piece.partition(b"\r\n\r\n")
    about = BytesParser().parsebytes(head.lstrip() + b"\r\n\r\n", headersonly=True)
    name = about.get_param("name", header="content-disposition")
    if not isinstance(name, str):
        raise UserError("A part of the form has no name; send one with every part.")
    if about.get_filename() is not None:
        return name, value
    try:
        return name, value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"The field “{name[:80]}” of the form is no text in UTF-8; send it as a file."
        ) from error
