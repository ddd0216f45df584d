"""Bodies as the routes read them: JSON, or a form as OpenAI's clients send files, by the same rules."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from components.errors import UserError, shortened
from components.serving.routes.errors import FieldError
from components.serving.routes.paths import header_of

T = TypeVar("T", bound=BaseModel)
LISTED = re.compile(r"\[\d*\]$")
"""What a client puts behind the name of a field that holds several files."""
PARTS = 64
"""The most parts of a form."""
LIMITS = {"MAX_MEMORY_FILE_SIZE": 2**26}
"""No file of a body that was let in is written to a disk."""
SHOWN = 8192
"""Characters of a wrong value that are looked at to say what is wrong."""
COMMAS = 8192
"""The most commas of JSON, which the longest prompt and all fields together do not reach."""

DEEPEST = 64
"""The most lists and objects of JSON inside one another; what is written down again must be readable again."""
LONG = 2**16
"""Bytes of JSON from which on it is read beside the loop, which answers others meanwhile."""

FORMS = "a form of files, sent with the header content-type: multipart/form-data, or "
COUNTED = {list: "entries", bytes: "bytes", dict: "fields"}
"""What a wrong value has so many of; a list of bytes has files."""


async def read(request: Request, kind: type[T]) -> T:
    """The body of `request` as a `kind`, read beside the loop. Raises what FastAPI raises."""
    content, sent = await request.body(), request.headers.get("content-type", "")
    return await asyncio.to_thread(parsed, content, sent, kind)


async def json_of(request: Request, kind: type[T]) -> T:
    """The body of `request`, which is JSON, as a `kind`. Raises what FastAPI raises."""
    content, sent = await request.body(), header_of(request.scope, b"content-type") or ""
    media = sent.partition(";")[0].strip().lower()
    if media != "application/json" and not (media.startswith("application/") and media.endswith("+json")):
        raise UserError(
            "The body must be a JSON object, sent with the header content-type: application/json."
        )
    if len(content) > LONG:
        return await asyncio.to_thread(_checked, content, kind)
    return _checked(content, kind)


def _checked(content: bytes, kind: type[T]) -> T:
    try:
        return kind.model_validate(decoded(content))
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from error


def parsed(content: bytes, sent: str, kind: type[T]) -> T:
    """`content` of the type `sent` as a `kind`; a form's numbers are written as text. Raises what FastAPI raises."""
    form = sent.lower().startswith("multipart/form-data")
    return validated(fields(content, sent) if form else loads(content, sent, FORMS), kind, strict=not form)


def validated(value: Any, kind: type[T], strict: bool = True, under: str | None = None) -> T:
    """`value` as a `kind`; raises `FieldError`. `under` is the field of the body that holds it, if it is not all."""
    try:
        return kind.model_validate(value, strict=strict)
    except ValidationError as error:
        found = [_told(one) for one in error.errors(include_url=False)]
        raise FieldError(found, kind, under) from error


def _told(error: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as FastAPI words it, without the bytes of files and without what is long."""
    value = error["input"]
    match value:
        case str():
            value = value[:SHOWN]
        case [bytes(), *_]:
            value = f"{len(value)} files"
        case list() | bytes() | dict():
            value = f"{len(value)} {COUNTED[type(value)]}"
    return {**error, "loc": ("body", *error["loc"]), "input": value}


def loads(content: bytes, sent: str, others: str = "") -> Any:
    """`content` of the type `sent` as JSON; `others` are what a body may be instead. Raises what FastAPI raises."""
    if not sent.lower().startswith("application/json"):
        raise UserError(f"The body must be {others}a JSON object, sent with content-type: application/json.")
    commas = content.count(b",")
    if commas > COMMAS:
        raise UserError(
            f"The body has {commas} commas and may have {COMMAS}; send the route's own fields only."
        )
    return decoded(content)


def decoded(content: bytes) -> Any:
    """`content` as JSON. Raises what FastAPI raises."""
    try:
        value = json.loads(content)
        if content.count(b"[") + content.count(b"{") > DEEPEST and _depth(value) > DEEPEST:
            raise RecursionError
        return value
    except json.JSONDecodeError as error:
        broken = {"type": "json_invalid", "loc": ("body", error.pos), "ctx": {"error": error.msg}}
        raise RequestValidationError([broken]) from error
    except UnicodeDecodeError as error:
        raise UserError(f"The body is not valid UTF-8, at byte {error.start}; encode it so.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            "The body is no JSON that can be read, as a number is too long or lists are too deep; send smaller ones."
        ) from error


def _depth(value: Any) -> int:
    """How many lists and objects lie inside one another, counted no further than one more than there may be."""
    depth, inside = 0, [value]
    while depth <= DEEPEST:
        inside = [
            part
            for one in inside
            if isinstance(one, list | dict)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not inside:
            break
        depth += 1
    return depth


def fields(content: bytes, sent: str) -> dict[str, Any]:
    """The fields of a form by RFC 7578: texts, files as bytes, and lists of what comes more than once."""
    form = _Form()
    try:
        boundary = parse_options_header(sent)[1].get(b"boundary")
        parser = FormParser("multipart/form-data", form.text, form.file, form.end, boundary, config=LIMITS)
        parser.write(content)
    except (FormParserError, UnicodeError) as error:  # what is no header of ASCII cannot be encoded
        raise UserError(
            f"The form cannot be read ({shortened(str(error))}); send one as RFC 7578 has it."
        ) from error
    if not form.whole:
        raise UserError("The form is not whole; send its parts between the boundaries that its header names.")
    return {name: values if name in form.several else values[0] for name, values in form.found.items()}


class _Form:
    """What a parser has found so far."""

    def __init__(self) -> None:
        self.found: dict[str, list[str | bytes]] = {}
        self.several: set[str] = set()
        self.parts, self.whole = 0, False

    def text(self, field: Field) -> None:
        name = _name(field.field_name)
        try:
            self._take(name, (field.value or b"").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(
                f"The field “{shortened(name)}” of the form is no text in UTF-8; send it as a file."
            ) from error

    def file(self, file: File) -> None:
        file.file_object.seek(0)
        self._take(_name(file.field_name), file.file_object.read())
        file.close()

    def end(self) -> None:
        self.whole = True

    def _take(self, name: str, value: str | bytes) -> None:
        self.parts += 1
        if self.parts > PARTS:
            raise UserError(f"The form has more than {PARTS} parts; send fewer, or several forms.")
        plain = LISTED.sub("", name)
        if plain in self.found or plain != name:
            self.several.add(plain)
        self.found.setdefault(plain, []).append(value)


def _name(name: bytes | None) -> str:
    if not name:
        raise UserError("A part of the form has no name; send one with every part.")
    return name.decode("utf-8", "replace")
