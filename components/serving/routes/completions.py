"""`POST /v1/completions`, as OpenAI's clients call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from components.modalities.completion import CompletionRequest
from components.serving.catalog import Catalog, Loaded
from components.serving.routes.answers import Completion, whole_or_streamed
from components.serving.routes.description import json_body
from components.serving.routes.forms import json_of
from components.serving.routes.sides import answered
from components.serving.routes.streams import Choice, Form, finite, named, respond
from components.serving.writing import Entry, Piece


def router(catalog: Catalog) -> APIRouter:
    """The route that continues texts with the models in `catalog`."""
    routes = APIRouter()

    said, taken = whole_or_streamed(Completion), json_body(CompletionRequest)

    @routes.post("/v1/completions", response_model=None, responses=said, openapi_extra=taken)
    async def complete(request: Request) -> Response:
        """Continue each prompt `n` times; row i of the request has its seed + i."""
        body = await json_of(request, CompletionRequest)

        async def ask(loaded: Loaded) -> Response:
            return await respond(loaded, body, _form(body.logprobs is not None))

        return await answered(catalog, request, body, ask, "text")

    return routes


def _form(logprobs: bool) -> Form:
    def choice(piece: Piece) -> Choice:
        return {
            "text": piece.text,
            "index": piece.row,
            "logprobs": _logprobs(piece.entries) if logprobs else None,
            "finish_reason": piece.finish,
        }

    def opening(piece: Piece) -> Sequence[Choice]:
        return [choice(piece)] if piece.text else []

    def deltas(piece: Piece) -> Sequence[Choice]:
        return [choice(piece)]

    return Form("cmpl", "text_completion", "text_completion", choice, deltas, opening)


def _logprobs(entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "tokens": [named(entry.token) for entry in entries],
        "token_logprobs": [finite(entry.logprob) for entry in entries],
        "top_logprobs": [
            {named(token): finite(value) for token, value in [*entry.top, (entry.token, entry.logprob)]}
            for entry in entries
        ],
        "text_offset": [entry.offset for entry in entries],
    }
