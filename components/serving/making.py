"""What a request makes, whatever the modality: files, each with its seed; the same for one request and for millions."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor

from components.errors import UserError
from components.modalities.completion import TextBody
from components.serving.catalog import Loaded, Withheld
from components.serving.marking import let_out, marked
from components.serving.writing import Answer, prepare


@dataclass(frozen=True)
class Made:
    """One answer: a file of the modality's media type, its seed, and its class and its end where they are known.

    `content` is None where the product's filter does not let it out, for the reason in `withheld`; `media_type` is None
    where the file is of the modality's.
    """

    content: bytes | None
    seed: int
    label: str | None = None
    finish: str | None = None
    withheld: str | None = None
    media_type: str | None = None


@dataclass(frozen=True)
class Making:
    """A request under way: `take(i, output)` is answer i of `count`, once `work` has the output of all rows."""

    work: Future[Tensor]
    count: int
    take: Callable[[int, Tensor], Made]


def begin(loaded: Loaded, body: BaseModel) -> Making:
    """Let the engine begin with `body`; cancelling the work ends it. Raises `UserError` and `QueueFullError`."""
    return ready(loaded, body)()


def ready(loaded: Loaded, body: BaseModel) -> Callable[[], Making]:
    """What lets the engine begin with `body`, which is read here and may take long. Raises `UserError`.

    So a loop may have it read beside itself, and begin only if the client is still there.
    """
    if isinstance(body, TextBody):
        answer = prepare(loaded, body)
        count = len(answer.writers)
        return lambda: Making(answer.submit(), count, lambda place, _: _written(answer, place))
    order = loaded.order(body)

    def take(place: int, output: Tensor) -> Made:
        seed, label = order.seeds[place], order.labels[place]
        file = let_out(loaded, order.file(place, output), seed, order.media_type)
        if isinstance(file, Withheld):
            return Made(None, seed, label, withheld=file.reason, media_type=order.media_type)
        return Made(file, seed, label, media_type=order.media_type)

    return lambda: Making(loaded.submit(body, order.requests, order.seeds[0]), len(order), take)


def _written(answer: Answer, place: int) -> Made:
    piece = answer.writers[place].result()
    text, seed = (answer.echoes[place] + piece.text).encode("utf-8"), (answer.seed + place) % 2**63
    return Made(marked(answer.loaded, text, seed), seed, finish=piece.finish)


def check_whole(body: BaseModel) -> None:
    """Raise `UserError` if `body` asks for what is more than a file, which the routes of its modality give."""
    for name in ("stream", "logprobs", "top_logprobs"):
        if getattr(body, name, None) not in (None, False):
            raise UserError(
                f"“{name}” is for the model's own route, which /v1/models names; leave it out here."
            )
