"""How the body of a completion or a chat becomes rows of tokens that fit into the model's context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.errors import UserError
from components.families.family import END, NOTHING, Requests, Shape
from components.modalities.completion import ChatRequest, CompletionRequest, ContextError, Message, TextBody
from components.modalities.tokenizer import TextTokenizer


def to_requests(tokenizer: TextTokenizer, body: TextBody, shape: Shape, seeds: Sequence[int]) -> Requests:
    """One row a seed: each prompt `n` times, in the order of the prompts.

    A model of pairs takes the prompt as its source. Raises `UserError`, and `ContextError` for what is too long.
    """
    each = body.n or 1
    prompts = prompts_of(tokenizer, body, shape)
    rows = [prompt for prompt in prompts for _ in range(each)]
    seed = torch.tensor(list(seeds), dtype=torch.int64)
    if shape.source is not None:
        options = _options(tokenizer, body, [shape.data[0] - 1] * len(rows))
        return Requests(seed=seed, source=_padded(rows, shape.source[0]), options=options)
    options = _options(tokenizer, body, [shape.data[0] - len(row) for row in rows])
    return Requests(seed=seed, prompt=_padded(rows, max(map(len, rows))), options=options)


def prompts_of(tokenizer: TextTokenizer, body: TextBody, shape: Shape) -> list[list[int]]:
    """The tokens of each prompt as the model gets them, which begin with `END` unless they are a source."""
    if isinstance(body, ChatRequest):
        return [_chat(tokenizer, body, shape)]
    assert isinstance(body, CompletionRequest)
    return [_fit(_prompt(tokenizer, prompt, shape), body, shape, "prompt") for prompt in body.prompt]


def room(body: TextBody, shape: Shape) -> int:
    """The most tokens of a prompt (`END` included) or a source; with truncation, what `max_tokens` leave of it.

    Truncation frees at most half of the context for the answer.
    """
    if shape.source is not None:
        return shape.source[0]
    context = shape.data[0]
    if body.truncation != "auto":
        return room_of(shape)
    return context - max(1, min(body.limit or context, context // 2))


def _prompt(tokenizer: TextTokenizer, prompt: str | list[int], shape: Shape) -> list[int]:
    tokens = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    wrong = next((token for token in tokens if not 0 <= token < tokenizer.vocabulary), None)
    if wrong is not None:
        raise UserError(f"There is no token {wrong}; this model's are 0 to {tokenizer.vocabulary - 1}.")
    if shape.source is not None:
        if not tokens:
            raise UserError("This model turns a text into another; put that text into “prompt”.")
        return tokens
    return tokens if tokens[:1] == [END] else [END, *tokens]


def _fit(tokens: list[int], body: TextBody, shape: Shape, param: str) -> list[int]:
    """`tokens`, or the newest of them (the first of a source) if the request allows that."""
    most = room(body, shape)
    if len(tokens) <= most:
        return tokens
    if body.truncation != "auto":
        raise _too_long(len(tokens), shape, param)
    # training cuts a source behind its beginning, a document before its end
    return tokens[:most] if shape.source is not None else [END, *tokens[len(tokens) - most + 1 :]]


def _chat(tokenizer: TextTokenizer, body: ChatRequest, shape: Shape) -> list[int]:
    """The chat by the template; the oldest turns, but for the system's, are dropped if the request allows that."""
    if tokenizer.template is None and shape.source is not None:
        return _fit(tokenizer.encode(_last(body.messages)), body, shape, "messages")
    roles = [_known(one.role) for one in body.messages]
    contents = [tokenizer.encode(one.content) for one in body.messages]
    tokens, most = tokenizer.compose(roles, contents), room(body, shape)
    while (excess := len(tokens) - most) > 0 and body.truncation == "auto":
        if not _drop(roles, contents, excess, len(tokens)):
            break
        tokens = tokenizer.compose(roles, contents)
    if len(tokens) > most:
        raise _too_long(len(tokens), shape, "messages")
    return tokens


def _drop(roles: list[str], contents: list[list[int]], excess: int, total: int) -> bool:
    """Take about `excess` of `total` tokens away, rather fewer; whether there were any to take.

    Whole old turns go first, at last the beginning of the last one.
    """
    before = sum(map(len, contents)), len(contents)
    around = (total - before[0]) // before[1]  # the template's own tokens for a turn
    while excess > 0:
        oldest = next((place for place, role in enumerate(roles) if role != "system"), None)
        if oldest is None:
            break
        if oldest == len(roles) - 1:
            contents[oldest] = contents[oldest][excess:]
            break
        excess -= len(contents.pop(oldest)) + around
        del roles[oldest]
    return (sum(map(len, contents)), len(contents)) != before


def _last(messages: Sequence[Message]) -> str:
    """What the user said last."""
    for message in reversed(messages):
        if message.role == "user":
            return message.content
    raise UserError("There is no message of the user; this model turns the last one into its answer.")


def _known(role: str) -> str:
    """OpenAI's newer name for the system is the same role here."""
    return "system" if role == "developer" else role


def _too_long(count: int, shape: Shape, param: str) -> ContextError:
    if shape.source is not None:
        least = f"has {count} tokens and this model reads at most {shape.source[0]}"
    else:
        context = shape.data[0]
        least = f"has {count} tokens, and the context of {context} must leave 1 for the answer"
    return ContextError(
        f"“{param}” {least}: {count} > {room_of(shape)}; shorten it, or send “truncation”: “auto” "
        "to drop what is too much.",
        param,
    )


def room_of(shape: Shape) -> int:
    """The most tokens of a prompt that is not truncated."""
    return shape.data[0] - 1 if shape.source is None else shape.source[0]


def _padded(rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """int64 [N, width], padded with `NOTHING`."""
    padded = torch.full((len(rows), width), NOTHING, dtype=torch.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return padded


def _options(tokenizer: TextTokenizer, body: TextBody, left: Sequence[int]) -> dict[str, Tensor]:
    """The sampling options of every row; `max_tokens` is cut to what the context has `left`."""
    rows = len(left)
    most = body.limit
    counts = [each if most is None else min(each, most) for each in left]
    chat = isinstance(body, ChatRequest)
    whole = {"end": tokenizer.turn if chat else END, "top_logprobs": body.likely, "top_k": body.top_k or 0}
    numbers = {
        "temperature": (body.temperature, 1.0),
        "top_p": (body.top_p, 1.0),
        "min_p": (body.min_p, 0.0),
        "repetition_penalty": (body.repetition_penalty, 1.0),
        "frequency_penalty": (body.frequency_penalty, 0.0),
        "presence_penalty": (body.presence_penalty, 0.0),
    }
    options = {"max_tokens": torch.tensor(counts, dtype=torch.int64)}
    options |= {name: torch.full((rows,), value, dtype=torch.int64) for name, value in whole.items()}
    for name, (value, usual) in numbers.items():
        options[name] = torch.full((rows,), usual if value is None else value, dtype=torch.float32)
    return options
