"""The bodies of OpenAI's `POST /v1/completions` and `POST /v1/chat/completions`, every field checked.

What OpenAI has and this server does not do is taken where its value asks for nothing, and refused otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from components.errors import UserError

Role = Literal["system", "developer", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)
IDLE: tuple[Any, ...] = (
    *(None, {}, [], "", False, "auto", "none", "default", "text", {"type": "text"}, ["text"]),
)
"""Values that ask for nothing."""
DEFAULT_TOKENS = 16
"""`max_tokens` of a completion that does not say, as at OpenAI; a chat goes on until the context is full."""
MESSAGES = 1024
"""The most messages of a chat."""
LONGEST_STOP = 256
"""Characters of a stop text."""
STOPS = 4
ROWS = 1024
"""Answers to all prompts of a request."""


class ContextError(UserError):
    """The prompt, in the field `param`, is longer than the model's context."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


def _idle(value: Any) -> Any:
    if not any(value is item or (type(value) is type(item) and value == item) for item in IDLE):
        raise ValueError("This server does not do that; leave it out")
    return value


def _usual(value: Any) -> Any:
    """An answer is as long as the model makes it, which OpenAI calls medium."""
    return value if value == "medium" else _idle(value)


def _text(value: Any, what: str = "Input should be a text") -> str:
    if not isinstance(value, str):
        raise ValueError(what)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("It holds half a character (a lone surrogate), which is no text") from error
    return value


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """All four of OpenAI's forms as a list of texts or a list of lists of tokens."""
    message = "Input should be a text, a list of texts, a list of tokens, or a list of lists of tokens"
    if isinstance(value, str) or value is None:
        return [_text(value or "")]
    if not isinstance(value, list):
        raise ValueError(message)
    if not value:
        raise ValueError("There is no prompt in the list; send at least one")
    if all(isinstance(item, str) for item in value):
        return [_text(item) for item in value]
    lists = [value] if isinstance(value[0], int) else value
    for item in lists:
        if not isinstance(item, list) or not all(type(token) is int for token in item):
            raise ValueError(message)
        if not item:
            raise ValueError("A list of tokens is empty; send at least one")
    return lists


def _stops(value: Any) -> list[str]:
    message = f"Input should be a text or a list of up to {STOPS} texts"
    listed = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or len(listed) > STOPS:
        raise ValueError(message)
    texts = [_text(item, message) for item in listed]
    if any(len(text) > LONGEST_STOP for text in texts):
        raise ValueError(f"A stop text is longer than {LONGEST_STOP} characters; shorten it")
    if not all(texts):
        raise ValueError("A stop text is empty, so nothing could be said; leave it out")
    return texts


def _content(value: Any) -> str:
    """A message's content, whose parts of text are put together."""
    message = 'Input should be a text or a list of parts such as {"type": "text", "text": …}'
    if not isinstance(value, list):
        return _text(value, message)
    parts = [part.get("text") if _is_text_part(part) else None for part in value]
    return "".join(_text(part, message) for part in parts)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and {*part} <= {*TextPart.model_fields}


def _role(value: Any) -> str:
    if value not in ROLES:
        raise ValueError(f"There is no such role; there are: {', '.join(ROLES)}")
    return str(value)


Idle: TypeAlias = Annotated[Any, AfterValidator(_idle), WithJsonSchema({"enum": list(IDLE)})]
"""A field that may ask for nothing only."""
Label: TypeAlias = Any
"""A field that says who asks or why; it is not read."""
Prompts: TypeAlias = Annotated[
    list[str] | list[list[int]],
    BeforeValidator(
        _prompts,
        json_schema_input_type=str
        | Annotated[
            list[str] | list[int] | list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1)
        ]
        | None,
    ),
]
Stop: TypeAlias = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Stops: TypeAlias = Annotated[
    list[str],
    BeforeValidator(
        _stops, json_schema_input_type=Stop | Annotated[list[Stop], Field(max_length=STOPS)] | None
    ),
]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk, with the counts of tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextBody(BaseModel):
    """What both routes take; `top_k`, `min_p`, `repetition_penalty` and `truncation` are ours."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    stop: Stops = []
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled", "auto"] | None = None
    user: Label = None
    metadata: Label = None
    safety_identifier: Label = None
    prompt_cache_key: Label = None
    logit_bias: Idle = None

    @model_validator(mode="after")
    def _streamed(self) -> TextBody:
        if self.stream_options is not None and not self.stream:
            raise ValueError("“stream_options” needs “stream”: true; send both or neither")
        return self

    @property
    def limit(self) -> int | None:
        """The most new tokens, or None where the context alone decides."""
        return self.max_tokens

    @property
    def likely(self) -> int:
        """How many likely tokens beside each drawn one; −1 where no log probabilities are asked for."""
        return -1

    @property
    def usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(TextBody):
    """The body of `POST /v1/completions`."""

    prompt: Prompts = [""]
    echo: bool | None = None
    best_of: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: Idle = None

    @model_validator(mode="after")
    def _possible(self) -> CompletionRequest:
        if (rows := len(self.prompt) * (self.n or 1)) > ROWS:
            raise ValueError(f"“prompt” and “n” ask for {rows} answers; one request may ask for {ROWS}")
        if self.best_of not in (None, self.n or 1):
            raise ValueError(f"“best_of” must be “n”, which is {self.n or 1}: all that is drawn is returned")
        if self.echo and self.logprobs is not None:
            raise ValueError("“echo” and “logprobs” do not go together; leave one of them out")
        return self

    @property
    def limit(self) -> int | None:
        """As at OpenAI, 16 unless asked otherwise."""
        return self.max_tokens or DEFAULT_TOKENS

    @property
    def likely(self) -> int:
        """As many as `logprobs` says."""
        return -1 if self.logprobs is None else self.logprobs


class TextPart(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str
    prompt_cache_breakpoint: Label = None


class Message(BaseModel):
    """One turn of a chat."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Annotated[str, BeforeValidator(_role, json_schema_input_type=Role)]
    content: Annotated[str, BeforeValidator(_content, json_schema_input_type=str | list[TextPart])]
    name: Label = None
    refusal: Idle = None
    tool_calls: Idle = None
    function_call: Idle = None
    audio: Idle = None
    annotations: Idle = None

    @model_validator(mode="after")
    def _said(self) -> Message:
        if self.role == "user" and not self.content.strip():
            raise ValueError("A user's message is empty; say something")
        return self


class ChatRequest(TextBody):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[Sequence[Message], Field(min_length=1, max_length=MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    store: Idle = None
    tools: Idle = None
    tool_choice: Idle = None
    parallel_tool_calls: Label = None
    functions: Idle = None
    function_call: Idle = None
    response_format: Idle = None
    modalities: Idle = None
    audio: Idle = None
    prediction: Idle = None
    reasoning_effort: Idle = None
    moderation: Idle = None
    prompt_cache_options: Label = None
    prompt_cache_retention: Label = None
    service_tier: Label = None
    verbosity: Annotated[Any, AfterValidator(_usual)] = None
    web_search_options: Idle = None

    @model_validator(mode="after")
    def _possible(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("“top_logprobs” needs “logprobs”: true; send both or neither")
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError("“max_tokens” and “max_completion_tokens” differ; send one of them")
        return self

    @property
    def limit(self) -> int | None:
        """Whatever the context leaves, unless asked otherwise."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def likely(self) -> int:
        """As many as `top_logprobs` says."""
        return (self.top_logprobs or 0) if self.logprobs else -1
