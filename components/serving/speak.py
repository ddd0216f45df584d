"""Text for the command line, as it comes: by the running server, or by a model loaded here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import httpx
from pydantic import ValidationError
from torch import Tensor

from components.errors import UserError
from components.modalities.completion import ChatRequest, CompletionRequest, TextBody
from components.serving import client
from components.serving.catalog import Catalog, Loaded
from components.serving.place import Place
from components.serving.routes.errors import sentence
from components.serving.writing import Piece, prepare


def body_of(content: dict[str, Any]) -> TextBody:
    """The request that `content` makes, a chat where it has messages. Raises `UserError`."""
    kind = ChatRequest if "messages" in content else CompletionRequest
    try:
        return kind.model_validate({name: value for name, value in content.items() if value is not None})
    except ValidationError as error:
        raise UserError(sentence(dict(error.errors()[0]), kind)[0]) from error


def speak(place: Place, body: TextBody) -> Iterator[Piece]:
    """The pieces of every row as they come; what is left of them is not computed when the reader stops.

    Raises `UserError` for what the model cannot do.
    """
    if place.loaded is not None:
        yield from _here(place.loaded, body)
        return
    assert place.url is not None
    with client.stream(place.url, _route(body), {**_dump(body), "stream": True}) as events:
        for event in events:
            for choice in event["choices"]:
                text = choice["text"] if "text" in choice else choice["delta"].get("content", "")
                yield Piece(choice["index"], text, choice["finish_reason"])


def whole(place: Place, body: TextBody) -> dict[str, Any]:
    """OpenAI's object with the whole answer, whoever computes it."""
    if place.loaded is None:
        assert place.url is not None
        return client.answer(client.post(place.url, _route(body), _dump(body)))
    return asyncio.run(_asked(place.loaded, body))


async def _asked(loaded: Loaded, body: TextBody) -> dict[str, Any]:
    from components.serving.routes.application import create_app

    transport = httpx.ASGITransport(create_app(Catalog({loaded.served.product: loaded})))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as here:
        return client.answer(await here.post(_route(body), json=_dump(body), timeout=None))


def _here(loaded: Loaded, body: TextBody) -> Iterator[Piece]:
    queue: SimpleQueue[Piece | None] = SimpleQueue()

    def over(_: Future[Tensor]) -> None:
        queue.put(None)

    work = prepare(loaded, body).submit(queue.put)
    work.add_done_callback(over)
    try:
        while (piece := queue.get()) is not None:
            yield piece
        work.result()
    finally:
        work.cancel()


def _route(body: TextBody) -> str:
    return "/v1/chat/completions" if isinstance(body, ChatRequest) else "/v1/completions"


def _dump(body: TextBody) -> dict[str, Any]:
    return body.model_dump(exclude_defaults=True)
