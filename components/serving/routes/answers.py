"""What the routes answer, for those who read `/openapi.json`: nothing is checked or written by these classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field

from components.accelerator import Device
from components.labels.reading import Standing, Verdict
from components.serving.jobs import Status
from components.terms import Labels, Policy

Said: TypeAlias = dict[int | str, dict[str, Any]]
"""What FastAPI takes as `responses`."""
Finish: TypeAlias = Literal["stop", "length", "content_filter"]
Base64: TypeAlias = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class Failure(BaseModel):
    """What went wrong, in one sentence; `type` says whose fault it is."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str


class Error(BaseModel):
    """An error in OpenAI's shape."""

    error: Failure


class ModelObject(BaseModel):
    """A model that is served; the fields from `version` on are ours, and there are more of them by modality."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    version: int
    follows: bool
    family: str
    modality: str
    shape: list[int]
    routes: list[str]
    dataset: str
    licence: str
    run: str
    digest: str
    width: int
    threads: int
    device: Device
    records: Policy
    filtered: bool
    labels: Labels
    visible: bool
    terms: str
    canary: dict[str, Any] | None = None


class ModelList(BaseModel):
    """All models that are served."""

    object: Literal["list"]
    data: list[ModelObject]


class Mark(BaseModel):
    """That a model made this, which, and the hashes of an answer's texts; see docs/labels.md."""

    product: str
    version: int
    digest: str
    generator: str
    digital_source_type: str
    producer: str | None = None
    contents: list[str] | None = None


class Picture(BaseModel):
    """A PNG; seed and class are ours."""

    b64_json: Base64 | None
    seed: int
    label: str | None = None
    withheld: str | None = None


class Pictures(BaseModel):
    """Pictures as OpenAI words them."""

    created: int
    data: list[Picture]
    genloom: Mark | None = None


class File(BaseModel):
    """A file of the model's media type."""

    b64: Base64 | None
    media_type: str
    seed: int
    label: str | None = None
    finish_reason: Finish | None = None
    withheld: str | None = None


class Files(BaseModel):
    """Files of a modality for whose answers there is nothing more to say."""

    created: int
    model: str
    data: list[File]
    genloom: Mark | None = None


class Futures(BaseModel):
    """How one channel goes on: a list of the horizon's values for each quantile (such as 0.5) and each future."""

    channel: str
    quantiles: dict[str, list[float]]
    samples: list[list[float]]


class Forecast(BaseModel):
    """Futures of each channel of a context; `seeds` are theirs, `filled` counts the values that were interpolated."""

    created: int
    model: str
    horizon: int
    filled: int
    seeds: list[int]
    times: list[str] | None = None
    data: list[Futures]
    genloom: Mark | None = None


class Window(BaseModel):
    """A series as those of the data."""

    channel: str
    seed: int
    values: list[float]


class Windows(BaseModel):
    """What a model of series draws without a context."""

    created: int
    model: str
    horizon: int
    data: list[Window]
    genloom: Mark | None = None


class MoleculeFile(File):
    """A SMILES and what is known of it; the properties are those of a valid one."""

    smiles: str | None
    valid: bool | None = None
    canonical: str | None = None
    logp: float | None = None
    qed: float | None = None
    weight: float | None = None


class Molecules(BaseModel):
    """Molecules, how many were drawn for them, and how many of those are not what was asked for."""

    created: int
    model: str
    drawn: int
    dropped: int
    data: list[MoleculeFile]
    genloom: Mark | None = None


class Usage(BaseModel):
    """Counts of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    """One text."""

    text: str
    index: int
    logprobs: dict[str, Any] | None
    finish_reason: Finish


class Completion(BaseModel):
    """Texts as OpenAI words them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage
    genloom: Mark | None = None


class Answered(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Answered
    logprobs: dict[str, Any] | None
    finish_reason: Finish


class ChatCompletion(BaseModel):
    """Answers to a chat as OpenAI words them."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    genloom: Mark | None = None


class JobObject(BaseModel):
    """A job: `done` of `n` rows, `rate` in rows a second, times in seconds since the epoch, `path` of its shards."""

    id: str
    object: Literal["job"]
    created: int
    model: str
    version: int
    status: Status
    n: int
    done: int
    rate: float | None
    seconds_left: float | None
    seed: int
    media_type: str
    path: str
    started: int | None
    finished: int | None
    error: str | None
    request: dict[str, Any] | None = None


class JobList(BaseModel):
    """A page of jobs, the newest first."""

    object: Literal["list"]
    data: list[JobObject]
    has_more: bool


class LabelObject(BaseModel):
    """What a file says of its origin, and whether that holds; `sentence` says the `verdict` to a person."""

    object: Literal["label"]
    media_type: str
    verdict: Verdict
    sentence: str
    statement: dict[str, Any] | None
    content: str
    signature: dict[str, Any] | None
    issued: dict[str, Any] | None
    standing: Standing | None


class Health(BaseModel):
    """The served versions and their queues."""

    status: Literal["ok", "unhealthy"]
    models: list[dict[str, Any]]


class Ready(BaseModel):
    """Whether every model can answer."""

    ready: bool


BYTES = {"type": "string", "format": "binary"}
EVENT = {
    "type": "object",
    "description": "One server-sent event, with “stream”: true; `data` is JSON, or [DONE] at the end of texts.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
EVENTS = {"text/event-stream": {"schema": EVENT}}


def whole_or_streamed(model: type[BaseModel]) -> Said:
    """An answer that also comes as server-sent events."""
    return {200: {"model": model, "content": EVENTS, "description": "The answer, whole or as events."}}


def files(*media_types: str) -> dict[str, Any]:
    """What OpenAPI takes as `content` for files as they are."""
    return {kind.partition(";")[0]: {"schema": BYTES} for kind in media_types}


def any_of(models: Any, *media_types: str) -> Said:
    """An answer that is one of `models`, a union, or a file of one of `media_types` as it is."""
    return {200: {"model": models, "content": files(*media_types), "description": "As JSON, or as one file."}}


def also(model: type[BaseModel], *statuses: int) -> Said:
    """The same object with each of `statuses`."""
    return {status: {"model": model} for status in statuses}
