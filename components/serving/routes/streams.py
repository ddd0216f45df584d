"""What the routes of text share: an answer whole or as server-sent events, worded by each route's `Form`."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from fastapi.responses import Response
from torch import Tensor

from components.modalities.completion import TextBody
from components.serving.catalog import Loaded
from components.serving.marking import keep
from components.serving.routes.events import EventStream, Waiting, aside, done, kept, opened, told
from components.serving.routes.models import headers
from components.serving.writing import Answer, Piece, prepare

T = TypeVar("T")
Choice: TypeAlias = dict[str, Any]
TURN = 16
"""What a message costs beside its text, in characters."""
SMALL = 2000
"""Characters or tokens that are worked on beside the other requests; more of them go to a thread."""
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Form:
    """How a route words an answer: the names of its objects, a whole choice, the choices of a stream's pieces.

    `opening` words what stands before a row's first piece: the prompt where it is to be repeated.
    """

    prefix: str
    whole: str
    chunk: str
    choice: Callable[[Piece], Choice]
    deltas: Callable[[Piece], Sequence[Choice]]
    opening: Callable[[Piece], Sequence[Choice]]


async def respond(loaded: Loaded, body: TextBody, form: Form) -> Response:
    """The answer to `body`, whole or streamed. A client that leaves frees its rows."""
    answer = await aside(_size(body) <= SMALL, lambda: prepare(loaded, body))
    envelope = {
        "id": f"{form.prefix}-{uuid.uuid4().hex}",
        "object": form.chunk if body.stream else form.whole,
        "created": int(time.time()),
        "model": loaded.served.product,
        "system_fingerprint": f"v{loaded.served.version}-{loaded.model.digest[:12]}",
    }
    if body.stream:
        return await _streamed(answer, form, envelope)
    await done(answer.submit())
    tokens = sum(writer.tokens for writer in answer.writers)
    whole = await aside(tokens <= SMALL, lambda: _whole(answer, form, envelope))
    return Response(whole, media_type="application/json", headers=headers(loaded, answer.seed))


def _whole(answer: Answer, form: Form, envelope: Mapping[str, Any]) -> bytes:
    pieces, marker = answer.pieces, answer.loaded.marker
    choices = [form.choice(piece) for piece in pieces]
    contents = keep(answer.loaded, (piece.text for piece in pieces), answer.seed)
    mark = {} if marker is None else {"genloom": marker.told(contents)}
    return _json({**envelope, "choices": choices, "usage": answer.usage, **mark})


async def _streamed(answer: Answer, form: Form, envelope: Mapping[str, Any]) -> Response:
    """The stream, once its first piece is there: what fails before is a plain HTTP error."""
    first, queue, work = await opened(answer.submit)
    events = _events(answer, form, envelope, first, queue, work)
    return EventStream(events, work, kept(answer.loaded, answer.seed))


async def _events(
    answer: Answer,
    form: Form,
    envelope: Mapping[str, Any],
    piece: Piece | None,
    queue: Waiting[Piece],
    work: Future[Tensor],
) -> AsyncIterator[bytes]:
    usage: dict[str, Any] = {"usage": None} if answer.body.usage else {}
    marker = answer.loaded.marker
    mark = {} if marker is None else {"genloom": marker.field}

    def chunk(choices: Sequence[Choice]) -> bytes:
        content = b""
        for choice in choices:
            content += _event({**envelope, "choices": [choice], **usage, **mark})
            mark.clear()  # the first chunk says it for all
        return content

    for row, echo in enumerate(answer.echoes):
        if opening := form.opening(Piece(row, echo)):
            yield chunk(opening)
    while piece is not None:
        ready = chunk(form.deltas(piece))
        while not queue.empty() and (piece := queue.get_nowait()) is not None:
            ready += chunk(form.deltas(piece))
        yield ready
        piece = await queue.get() if piece is not None else None
    error = work.exception()
    if error is not None:
        yield _event(told(error))
        return
    keep(answer.loaded, (piece.text for piece in answer.pieces), answer.seed)
    if answer.body.usage:
        yield _event({**envelope, "choices": [], "usage": answer.usage})
    yield DONE


def _event(value: Mapping[str, Any]) -> bytes:
    return b"data: " + _json(value) + b"\n\n"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def _size(body: TextBody) -> int:
    """Characters and tokens of the prompts."""
    return sum(len(part) for part in getattr(body, "prompt", ())) + sum(
        len(message.content) + TURN for message in getattr(body, "messages", ())
    )


def named(token: bytes) -> str:
    """A token as OpenAI writes it: its text, or its bytes where they are no whole character."""
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes −9999 for what is impossible."""
    return max(logprob, -9999.0)
