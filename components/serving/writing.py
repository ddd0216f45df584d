"""From tokens to text as they come: whole characters only, never a stop string, and a log probability a token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Literal, TypeAlias

from torch import Tensor

from components.families.family import NOTHING, Requests
from components.filtering import ContentFilter
from components.modalities.completion import CompletionRequest, TextBody
from components.modalities.text import Text
from components.modalities.tokenizer import TextTokenizer
from components.serving.catalog import Loaded
from components.serving.listening import FULL, RUNNING, News

Finish: TypeAlias = Literal["stop", "length", "content_filter"]
UNSEEN = 64
"""Characters that are held back until a product's own filter sees them together."""


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
    """The text of one row. What could still become a stop string is held back, and a stop string never given out.

    Nor is what the `filter` refuses, with which the row ends; what it must see first is held back as well.
    """

    tokenizer: TextTokenizer
    row: int
    stops: Sequence[str] = ()
    filter: ContentFilter | None = None
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
            if (end := self._end()) is not None:
                return self._give(*end)
        if news.finish != RUNNING:
            tail = self.stream.end()
            # a character that max_tokens cut is left out; after the end token it is the model's own mistake
            self.held += tail.rstrip("\ufffd") if news.finish == FULL else tail
            return self._give(
                *(self._end(whole=True) or (len(self.held), "length" if news.finish == FULL else "stop"))
            )
        safe = len(self.held) - max((_begun(self.held, stop) for stop in self.stops), default=0)
        if self.filter is not None:
            safe = min(safe, len(self.held) - self.filter.reach)
            safe = 0 if self.filter.code is not None and safe < UNSEEN else safe
        return self._give(safe, None) if safe > 0 else None

    def _note(self, news: News, place: int, token: int) -> None:
        if not news.logprobs:
            return
        name = self.tokenizer.bytes_of
        top = [(name(rival), value) for rival, value in news.top[place] if self._shown(name(rival))]
        offset = self.offset + len(self.held)
        self.entries.append(Entry(name(token), news.logprobs[place], top, offset))

    def _shown(self, rival: bytes) -> bool:
        """Whether a token that was not chosen may be seen."""
        if self.filter is None:
            return True
        return self.filter.code is None and self.filter.word(rival.decode("utf-8", "replace")) is None

    def _end(self, whole: bool = False) -> tuple[int, Finish] | None:
        """Where in what is held a stop string or a word that is not let out begins, whichever is first."""
        found: list[tuple[int, Finish]] = [
            (place, "stop") for stop in self.stops if (place := self.held.find(stop)) >= 0
        ]
        if self.filter is not None:
            before = self.whole[-1].text[-1:] if self.whole else ""
            word = self.filter.word(before + self.held, len(before), whole)
            found += [] if word is None else [(word - len(before), "content_filter")]
        return min(found, default=None)

    def _refused(self, count: int) -> bool:
        """Whether the project's own filter refuses the text with the next `count` characters."""
        if self.filter is None or self.filter.code is None:
            return False
        text = "".join(piece.text for piece in self.whole) + self.held[:count]
        return self.filter.refuses(text.encode("utf-8", "replace"), "text/plain") is not None

    def _give(self, count: int, finish: Finish | None) -> Piece:
        """`count` characters and the tokens that lie in them whole; with the end, also tokens without a text."""
        if count and self._refused(count):
            count, finish = 0, "content_filter"
        if finish == "content_filter" and self.filter is not None:
            self.filter.count()
        end = self.offset + len(self.held)
        self.offset += count
        stopped = self.offset < end
        last = self.offset if stopped or finish is None else end + 1
        ends = [*(entry.offset for entry in self.entries[1:]), end]
        # of a token that goes on behind what is given out, the rest would be seen here
        given = takewhile(
            lambda pair: pair[0].offset < last and pair[1] <= last, zip(self.entries, ends, strict=False)
        )
        entries = [entry for entry, _ in given]
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

        return self.loaded.submit(self.body, self.requests, self.seed, listen)

    @property
    def echoes(self) -> list[str]:
        """The text of each row's prompt where the request wants it repeated, else nothing."""
        if not (isinstance(self.body, CompletionRequest) and self.body.echo):
            return [""] * len(self.writers)
        decode = self.writers[0].tokenizer.decode
        texts = [prompt if isinstance(prompt, str) else decode(prompt) for prompt in self.body.prompt]
        return [text for text in texts for _ in range(self.body.n or 1)]

    @property
    def pieces(self) -> list[Piece]:
        """Each row whole, with its prompt before it where that is to be repeated."""
        rows = [writer.result() for writer in self.writers]
        return [replace(row, text=echo + row.text) for row, echo in zip(rows, self.echoes, strict=True)]

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
    writers = [Writer(modality.tokenizer, row, body.stop, loaded.filter) for row in range(len(order))]
    return Answer(loaded, body, order.requests, order.seeds[0], writers)
