"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, one sentence, no traceback."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from components.errors import FailedError, UserError, WithdrawnError, shortened, unknown
from components.modalities.completion import ContextError
from components.serving.engine import EndedError, QueueFullError
from components.serving.jobs import TooManyJobsError, UnknownJobError
from components.serving.routes.paths import route_of

log = logging.getLogger(__name__)
FORESEEN = (RequestValidationError, UserError, QueueFullError, HTTPException)
"""What a request may end with that is no fault of the server's programs."""
WITHDRAWN = "model_withdrawn"
"""The code of an error about a version that nobody may use any more."""
SHOWN = 60
"""Characters of a wrong value that an error repeats."""


class UnknownModelError(UserError):
    """The request names a model that is not served; HTTP 404."""


class WithheldError(UserError):
    """Nothing of the answer passes the product's content filter; HTTP 400, as OpenAI says it."""


class FieldError(RequestValidationError):
    """pydantic's findings about a body, or what stands in its field `under`, that was read as a `kind`; HTTP 400."""

    def __init__(
        self, errors: Sequence[Mapping[str, Any]], kind: type[BaseModel], under: str | None = None
    ) -> None:
        super().__init__(errors)
        self.kind, self.under = kind, under


def answer(
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    return JSONResponse(content(status, message, code, param), status, headers=dict(headers or {}))


def content(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The object that an error is; its `type` says whose fault it is."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    field = None if param is None else shortened(_writable(param))
    return {"error": {"message": _writable(message), "type": kind, "param": field, "code": code}}


def _writable(text: str) -> str:
    """`text` without the lone surrogates that JSON can carry and UTF-8 cannot: those are written as \\ud800."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def install(app: FastAPI, bodies: Mapping[str, type[BaseModel]]) -> None:
    """Answer every exception of `app` in OpenAI's shape; `bodies` are what each path takes."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        return respond(request, error, bodies)

    for kind in (*FORESEEN, Exception):
        app.add_exception_handler(kind, handle)


def respond(request: Request, error: Exception, bodies: Mapping[str, type[BaseModel]]) -> JSONResponse:
    """The answer to a request that ended with `error`; what is not foreseen is logged and told as such."""
    match error:
        case FieldError():
            message, param = sentence(error.errors()[0], error.kind)
            within = ".".join(part for part in (error.under, param) if part)
            return answer(400, message, "invalid_request", within or None)
        case RequestValidationError():
            message, param = sentence(error.errors()[0], bodies.get(route_of(request.scope), BaseModel))
            return answer(400, message, "invalid_request", param)
        case UnknownJobError():
            return answer(404, str(error), "job_not_found")
        case TooManyJobsError():
            return answer(429, str(error), "too_many_jobs", headers={"retry-after": "60"})
        case UnknownModelError():
            return answer(404, str(error), "model_not_found", "model")
        case WithheldError():
            return answer(400, str(error), "content_policy_violation")
        case ContextError():
            return answer(400, str(error), "context_length_exceeded", error.param)
        case EndedError():
            return answer(503, str(error), "engine_ended", headers={"retry-after": "1"})
        case WithdrawnError():
            return answer(503, str(error), WITHDRAWN, headers={"retry-after": "1"})
        case FailedError():
            return answer(500, str(error), "generation_failed")
        case UserError():
            return answer(400, str(error), "invalid_request")
        case QueueFullError():
            message = "The server has as many requests waiting as it can hold; ask again in a second."
            return answer(503, message, "queue_full", headers={"retry-after": "1"})
        case HTTPException():
            return answer(error.status_code, _http(request, error), "invalid_request", headers=error.headers)
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(500, "The server failed at this request; its log says why.", "internal_error")


def _http(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"There is nothing at {request.url.path}; see /v1/models, whose models name their routes."
    if error.status_code == 405:
        return f"{request.url.path} does not take {request.method}; see the documentation of the routes."
    if isinstance(error.__cause__, UnicodeDecodeError):
        return f"The body is not valid UTF-8, at byte {error.__cause__.start}; encode it so."
    return f"{error.detail}."


def sentence(error: Mapping[str, Any], body: type[BaseModel]) -> tuple[str, str | None]:
    """One of pydantic's findings about a request, and the field that it is about."""
    kind, where = error["type"], [str(part) for part in error["loc"] if part != "body"]
    if kind == "json_invalid":
        cause, place = error["ctx"]["error"], where[0] if where else "?"
        return f"The body is no valid JSON: {cause}, at character {place}.", None
    if not where and kind == "string_unicode":
        field = str(error["input"])
        return f"The field “{shortened(field)}” has half a character in its name; leave it out.", field
    message = str(error["ctx"]["error"] if kind == "value_error" else error["msg"])
    if not where and kind == "value_error":
        return f"{message}.", None
    if not where:
        return "The body must be a JSON object, sent with the header content-type: application/json.", None
    param = ".".join(where)
    if kind == "missing":
        return f"The field “{param}” is missing; add it.", param
    if kind == "extra_forbidden" and len(where) > 1:
        return f"There is no field “{shortened(param)}”; leave it out.", param
    if kind == "extra_forbidden":
        return str(unknown("field", param, body.model_fields)), param
    value = json.dumps(error["input"], ensure_ascii=False, default=str)
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
    return f"“{param}” is {shown}: {message[0].lower()}{message[1:]}.", param
