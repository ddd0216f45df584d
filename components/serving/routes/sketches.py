"""Pictures as server-sent events while they are drawn, as OpenAI streams them."""

from __future__ import annotations

import asyncio
import io
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
from fastapi.responses import Response
from PIL import Image
from torch import Tensor

from components.modalities.drawing import PictureBody
from components.modalities.modality import Order
from components.serving.catalog import Loaded, Withheld
from components.serving.listening import Glimpse, Look
from components.serving.marking import let_out
from components.serving.routes.events import EventStream, Waiting, kept, opened, told

USAGE = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""OpenAI's clients want counts of tokens; these models have none."""


@dataclass(frozen=True)
class Picture:
    """A file of answer `place`: finished, or its partial image `partial`."""

    place: int
    file: bytes
    partial: int | None = None


def chosen(steps: int, partials: int) -> list[int]:
    """The steps of `steps` after which `partials` partial images are shown, evenly; fewer where steps are few."""
    places = {round(steps * (place + 1) / (partials + 1)) for place in range(partials)}
    return sorted(place for place in places if 0 < place < steps)


async def streamed(loaded: Loaded, body: PictureBody, order: Order, event: str) -> Response:
    """The stream, once its first picture is there: what fails before is a plain HTTP error."""
    steps = order.requests.options.get("steps")
    partials = frozenset(chosen(1 if steps is None else int(steps[0]), body.partial_images))

    def submit(tell: Callable[[Glimpse], None]) -> Future[Tensor]:
        return loaded.submit(body, order.requests, order.seeds[0], look=Look(partials, tell))

    first, queue, work = await opened(submit)
    events = _events(loaded, order, event, first, queue, work)
    return EventStream(events, work, kept(loaded, order.seeds[0]))


async def _events(
    loaded: Loaded,
    order: Order,
    event: str,
    glimpse: Glimpse | None,
    queue: Waiting[Glimpse],
    work: Future[Tensor],
) -> AsyncIterator[bytes]:
    sight = Sight(order)
    while glimpse is not None:
        shown = await asyncio.to_thread(_seen, loaded, sight, event, glimpse)
        if shown is not None:
            yield shown
        glimpse = await queue.get()
    error = work.exception()
    if error is not None:
        yield _written("error", told(error))


def _seen(loaded: Loaded, sight: Sight, event: str, glimpse: Glimpse) -> bytes | None:
    """The event that `glimpse` makes, if any; of a product with a filter nothing is shown before it is finished."""
    picture = sight.see(glimpse)
    if picture is None or (loaded.filter is not None and picture.partial is not None):
        return None
    file = let_out(loaded, picture.file, sight.order.seeds[picture.place])
    if isinstance(file, Withheld):
        place = {"index": picture.place, "seed": sight.order.seeds[picture.place]}
        return _written(f"{event}.withheld", {**place, "withheld": file.reason})
    return _event(sight.order, event, replace(picture, file=file))


class Sight:
    """Puts the rows of each answer together as they come; of an answer in several rows only the end is shown."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._of = {
            row: place for place, part in enumerate(order.parts) for row in range(part.start, part.stop)
        }
        self._rows: list[dict[int, Tensor]] = [{} for _ in order.parts]
        self._partials = [0] * len(order)

    def see(self, glimpse: Glimpse) -> Picture | None:
        """The picture that `glimpse` makes, if any."""
        place = self._of[glimpse.row]
        part, rows = self.order.parts[place], self._rows[place]
        count = part.stop - part.start
        if not glimpse.done:
            return self._partial(place, glimpse.output) if count == 1 else None
        rows[glimpse.row - part.start] = glimpse.output
        if len(rows) < count:
            return None
        whole = torch.stack([rows.pop(row) for row in range(count)])
        return Picture(place, self.order.encode(place, whole))

    def _partial(self, place: int, output: Tensor) -> Picture:
        self._partials[place] += 1
        return Picture(place, self.order.encode(place, output[None]), self._partials[place] - 1)


def _event(order: Order, event: str, picture: Picture) -> bytes:
    """An event as OpenAI words it; `index`, seed and class of the picture are ours."""
    width, height = Image.open(io.BytesIO(picture.file)).size
    label = order.labels[picture.place]
    value = {
        "b64_json": b64encode(picture.file).decode("ascii"),
        "created_at": int(time.time()),
        "size": f"{width}x{height}",
        "quality": "auto",
        "background": "opaque",
        "output_format": "png",
        "index": picture.place,
        "seed": order.seeds[picture.place],
        **({} if label is None else {"label": label}),
    }
    if picture.partial is None:
        return _written(f"{event}.completed", {**value, "usage": USAGE})
    return _written(f"{event}.partial_image", {**value, "partial_image_index": picture.partial})


def _written(event: str, value: Mapping[str, Any]) -> bytes:
    text = json.dumps({"type": event, **value}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {event}\ndata: {text}\n\n".encode()
