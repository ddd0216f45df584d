"""From tokens to text as they come: whole characters only, never a stop string, and a log probability a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from torch import Tensor

from components.families.family import NOTHING, Requests
from components.modalities.completion import CompletionRequest, TextBody
from components.modalities.text import Text
from components.modalities.tokenizer import TextTokenizer
from components.serving.catalog import Loaded
from components.serving.listening import FULL, RUNNING, News

Finish: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True)
class Entry:
    """One token, its log probability in nats, its likeliest rivals, and where its text begins in characters."""

    token: bytes
    logprob: float
    top: Sequence[tuple[bytes, float]]
    offset: int


@dataclass(frozen=True)
class Piece:
    """Some text of the row `row`; `finish` says why it is the last one."""

    row: int
    text: str
    finish: Finish | None = None
    entries: Sequence[Entry] = ()


Give: TypeAlias = Callable[[Piece], None]


@dataclass
class Writer:
    """The text of one row. What could still become a stop string is held back, and a stop string never given out."""

    tokenizer: TextTokenizer
    row: int
    stops: Sequence[str] = ()
    tokens: int = 0
    whole: list[Piece] = field(default_factory=list)
    held: str = ""
    entries: list[Entry] = field(default_factory=list)
    offset: int = 0

    def __post_init__(self) -> None:
        self.stream = self.tokenizer.stream()

    def push(self, news: News) -> Piece | None:
        """What may be given out now, if anything; `finish` is set where the row is over."""
        for place, token in enumerate(news.tokens):
            self._note(news, place, token)
            self.held += self.stream.push(token)
            self.tokens += 1
            if (stop := self._stop()) is not None:
                return self._give(stop, "stop")
        if news.finish != RUNNING:
            tail = self.stream.end()
            # a character that max_tokens cut is left out; after the end token it is the model's own mistake
            self.held += tail.rstrip("\ufffd") if news.finish == FULL else tail
            stop = self._stop()
            finish: Finish = "length" if news.finish == FULL and stop is None else "stop"
            return self._give(len(self.held) if stop is None else stop, finish)
        safe = len(self.held) - max((_begun(self.held, stop) for stop in self.stops), default=0)
        return self._give(safe, None) if safe else None

    def _note(self, news: News, place: int, token: int) -> None:
        if not news.logprobs:
            return
        name = self.tokenizer.bytes_of
        top = [(name(rival), value) for rival, value in news.top[place]]
        offset = self.offset + len(self.held)
        self.entries.append(Entry(name(token), news.logprobs[place], top, offset))

    def _stop(self) -> int | None:
        """Where the first stop string begins in what is held."""
        found = [place for stop in self.stops if (place := self.held.find(stop)) >= 0]
        return min(found, default=None)

    def _give(self, count: int, finish: Finish | None) -> Piece:
        """`count` characters and the tokens that begin in them; with the end, also tokens without a text."""
        self.offset += count
        stopped = count < len(self.held)
        last = self.offset if stopped or finish is None else self.offset + 1
        entries = [entry for entry in self.entries if entry.offset < last]
        piece = Piece(self.row, self.held[:count], finish, entries)
        self.held, self.entries = self.held[count:], self.entries[len(entries) :]
        self.whole.append(piece)
        return piece

    def result(self) -> Piece:
        """The whole row in one piece."""
        entries = [entry for piece in self.whole for entry in piece.entries]
        return replace(self.whole[-1], text="".join(piece.text for piece in self.whole), entries=entries)


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((count for count in range(longest, 0, -1) if text.endswith(stop[:count])), 0)


@dataclass(frozen=True)
class Answer:
    """The answer to one request while it is written; row i has seed + i."""

    loaded: Loaded
    body: TextBody
    requests: Requests
    seed: int
    writers: Sequence[Writer]

    def submit(self, give: Give | None = None) -> Future[Tensor]:
        """Let the engine begin; `give` gets each piece, on the engine's thread. Cancelling ends it."""

        def listen(news: News) -> bool:
            piece = self.writers[news.row].push(news)
            if piece is not None and give is not None:
                give(piece)
            return piece is not None and piece.finish is not None

        return self.loaded.submit(self.requests, listen)

    @property
    def echoes(self) -> list[str]:
        """The text of each row's prompt where the request wants it repeated, else nothing."""
        if not (isinstance(self.body, CompletionRequest) and self.body.echo):
            return [""] * len(self.writers)
        decode = self.writers[0].tokenizer.decode
        texts = [prompt if isinstance(prompt, str) else decode(prompt) for prompt in self.body.prompt]
        return [text for text in texts for _ in range(self.body.n or 1)]

    @property
    def usage(self) -> dict[str, int]:
        """OpenAI's counts of tokens; a prompt counts once, however many answers it has."""
        given = self.requests.prompt if self.requests.source is None else self.requests.source
        assert given is not None
        prompt = int((given[:: self.body.n or 1] != NOTHING).sum())
        completion = sum(writer.tokens for writer in self.writers)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def prepare(loaded: Loaded, body: TextBody) -> Answer:
    """Read the prompts of `body`, which takes time in proportion to them. Raises `UserError`."""
    order = loaded.order(body)
    modality = loaded.model.modality
    assert isinstance(modality, Text)
    writers = [Writer(modality.tokenizer, row, body.stop) for row in range(len(order))]
    return Answer(loaded, body, order.requests, order.seeds[0], writers)
