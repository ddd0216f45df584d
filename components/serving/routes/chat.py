"""`POST /v1/chat/completions`, as OpenAI's clients call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from components.modalities.completion import ChatRequest
from components.serving.catalog import Catalog, Loaded
from components.serving.routes.answers import ChatCompletion, whole_or_streamed
from components.serving.routes.description import json_body
from components.serving.routes.forms import json_of
from components.serving.routes.sides import answered
from components.serving.routes.streams import Choice, Form, finite, named, respond
from components.serving.writing import Entry, Piece


def router(catalog: Catalog) -> APIRouter:
    """The route that answers chats with the models in `catalog`."""
    routes = APIRouter()

    said, taken = whole_or_streamed(ChatCompletion), json_body(ChatRequest)

    @routes.post("/v1/chat/completions", response_model=None, responses=said, openapi_extra=taken)
    async def chat(request: Request) -> Response:
        """Answer the last turn `n` times; answer i has the seed of the request + i."""
        body = await json_of(request, ChatRequest)

        async def ask(loaded: Loaded) -> Response:
            return await respond(loaded, body, _form(bool(body.logprobs)))

        return await answered(catalog, request, body, ask, "text")

    return routes


def _form(logprobs: bool) -> Form:
    def about(piece: Piece) -> Choice:
        content = [_logprob(entry) for entry in piece.entries]
        told = {"content": content, "refusal": None} if logprobs else None
        return {"logprobs": told, "finish_reason": piece.finish}

    def choice(piece: Piece) -> Choice:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": piece.row, "message": message, **about(piece)}

    def delta(row: int, said: dict[str, Any], piece: Piece) -> Choice:
        return {"index": row, "delta": said, **about(piece)}

    def opening(piece: Piece) -> Sequence[Choice]:
        return [delta(piece.row, {"role": "assistant", "content": ""}, piece)]

    def deltas(piece: Piece) -> Sequence[Choice]:
        """The text, and the end in a chunk of its own, as OpenAI sends it."""
        said = Piece(piece.row, piece.text, None, piece.entries)
        parts = [delta(piece.row, {"content": piece.text}, said)] if piece.text or piece.entries else []
        return parts + ([delta(piece.row, {}, Piece(piece.row, "", piece.finish))] if piece.finish else [])

    return Form("chatcmpl", "chat.completion", "chat.completion.chunk", choice, deltas, opening)


def _logprob(entry: Entry) -> dict[str, Any]:
    top = [_token(token, value) for token, value in entry.top]
    return {**_token(entry.token, entry.logprob), "top_logprobs": top}


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": named(token), "logprob": finite(logprob), "bytes": list(token)}
