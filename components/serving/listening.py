"""What rows gained in a step, read from the state for those who follow them: tokens, or what a picture looks like."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from components.families.family import Requests, State

RUNNING, ENDED, FULL = 0, 1, 2
"""What a row's `finish` says: it goes on, the end token was drawn, max_tokens are out or the context is full."""


@dataclass(frozen=True)
class News:
    """The new `tokens` of the request's row `row`, and whether they were its last ones (`finish`).

    `logprobs` has one number a token where the request asks for them, in nats, of the model's own distribution;
    `top` are the likeliest tokens of each place with theirs.
    """

    row: int
    tokens: Sequence[int]
    finish: int
    logprobs: Sequence[float] = ()
    top: Sequence[Sequence[tuple[int, float]]] = ()


Listener: TypeAlias = Callable[[News], bool]
"""Hears of one row after each step in which it grew or finished; True ends the row. Runs on the engine's thread."""


@dataclass(frozen=True)
class Glimpse:
    """What the request's row `row` looks like, `output` [C, H, W] on the CPU; `done` where that is final."""

    row: int
    output: Tensor
    done: bool


@dataclass(frozen=True)
class Look:
    """Who looks at a request's rows: `tell` gets each row after those of its steps that are in `steps`, and finished.

    It runs on the engine's thread.
    """

    steps: Collection[int]
    tell: Callable[[Glimpse], None]


@dataclass(frozen=True)
class Span:
    """The tokens from `start` to `stop` of the row at `place`, which is the request's row `row`."""

    place: int
    row: int
    start: int
    stop: int
    finish: int


class Progress(NamedTuple):
    """What every row of a state has: tokens (`length`), whether it is over, its `finish`, its `newest` token."""

    length: list[int]
    done: list[int]
    finish: list[int]
    newest: list[int]


def progress(state: State, counts: bool = True) -> Progress:
    """What the rows have, by one wait for the device; a family whose rows have no `finish` has full ones only.

    Without `counts` only `done` is read, for rows whose lengths nobody wants to know; the others are zeros.
    """
    if not counts:
        over: list[int] = state.done.tolist()
        nothing = [0] * len(over)
        return Progress(nothing, over, nothing, nothing)
    done, finish = state.done.long(), getattr(state, "finish", None)
    rows = [state.length, done, FULL * done if finish is None else finish]
    if state.output.dim() == 2 and not state.output.is_floating_point():
        rows.append(state.output.gather(1, (state.length - 1).clamp_(min=0)[:, None]).squeeze(1))
    else:
        rows.append(torch.zeros_like(done))
    return Progress(*torch.stack(rows).tolist())


def read(state: Any, spans: Sequence[Span], asked: Sequence[Requests], newest: Sequence[int]) -> list[News]:
    """The news of each of `spans`, whose requests are `asked`; rows that grew by one token have it in `newest`."""
    rows = (
        [[newest[span.place]] * (span.stop - span.start) for span in spans]
        if all(span.stop - span.start <= 1 for span in spans)
        else _tokens(state, spans)
    )
    return [_news(state, span, row, requests) for span, row, requests in zip(spans, rows, asked, strict=True)]


def _tokens(state: Any, spans: Sequence[Span]) -> list[list[int]]:
    """The tokens of spans of any length."""
    most = max(span.stop - span.start for span in spans)
    device = state.output.device
    place = torch.tensor([span.place for span in spans], device=device)[:, None]
    first = torch.tensor([span.start for span in spans], device=device)[:, None]
    index = (first + torch.arange(most, device=device)).clamp_(max=state.output.shape[1] - 1)
    rows: list[list[int]] = state.output[place, index].tolist()
    return [row[: span.stop - span.start] for span, row in zip(spans, rows, strict=True)]


def _news(state: Any, span: Span, tokens: list[int], requests: Requests) -> News:
    wanted = requests.options.get("top_logprobs")
    count = -1 if wanted is None else int(wanted[span.row])
    if count < 0 or not tokens:
        return News(span.row, tokens, span.finish)
    part = slice(span.start, span.stop)
    likely = state.top_token[span.place, part, :count].tolist()
    values = state.top_logprob[span.place, part, :count].tolist()
    top = [list(zip(*pair, strict=True)) for pair in zip(likely, values, strict=True)]
    # a vocabulary may have fewer tokens than were asked for: those that are none are below 0
    top = [[(token, value) for token, value in each if token >= 0] for each in top]
    return News(span.row, tokens, span.finish, state.logprob[span.place, part].tolist(), top)
