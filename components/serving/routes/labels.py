"""`POST /v1/labels`: what a file says of its origin, and whether that holds, for applications."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeAlias

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from components.labels.reading import Reading
from components.modalities.editing import Upload
from components.serving.routes.answers import LabelObject, also
from components.serving.routes.description import form_or_json
from components.serving.routes.forms import read

READ = "/v1/labels"
Reader: TypeAlias = Callable[[bytes], Reading]
"""Reads a file by the keys and the hashes of a project. Raises `UserError`."""


class LabelRequest(BaseModel):
    """A file of a form, or Base64 in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    file: Upload


def router(reader: Reader) -> APIRouter:
    """The route that reads marks as `reader` does."""
    routes = APIRouter()

    @routes.post(
        READ, response_model=None, responses=also(LabelObject, 200), openapi_extra=form_or_json(LabelRequest)
    )
    async def label(request: Request) -> dict[str, Any]:
        """Say which model made a file, and whether its signature and its content hold."""
        body = await read(request, LabelRequest)
        found = await asyncio.to_thread(reader, body.file)
        return {"object": "label", **asdict(found)}

    return routes
