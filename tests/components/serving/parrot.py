"""A family of tokens whose output a test can foresee: it says its prompt again and again."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
from fastapi.testclient import TestClient
from torch import Tensor, nn

from components.artifact import About, Model
from components.families.family import (
    END,
    NOTHING,
    Batch,
    Family,
    Kind,
    Losses,
    Networks,
    Requests,
    Shape,
    State,
    Task,
)
from components.families.sampling import blank, uniform
from components.modalities.text import Text
from components.modalities.tokenizer import train_tokenizer
from components.serving.catalog import Loaded, Served
from components.serving.engine import Engine

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"
CONTEXT = 64
HI = [{"role": "user", "content": "hi"}]

TOP = 20


@dataclasses.dataclass(kw_only=True)
class Talking(State):
    """A row's `finish` and log probabilities as every family of tokens has them; `said` is what it repeats."""

    finish: Tensor
    logprob: Tensor
    top_token: Tensor
    top_logprob: Tensor
    said: Tensor
    count: Tensor
    greedy: Tensor
    end: Tensor
    most: Tensor
    top: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parrot(Family):
    """Says what follows the first `END`, in turn at temperature 0, else by chance. `pause` is in seconds."""

    context: int = 64
    vocabulary: int = 261
    pause: float = 0.0

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.TOKENS})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.PROMPT, Task.SOURCE})

    def networks(self, shape: Shape) -> dict[str, nn.Module]:
        return {"parrot": nn.Linear(1, 1)}

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        raise NotImplementedError

    def start(self, networks: Networks, requests: Requests) -> State:
        rows, width = len(requests), self.context
        given = requests.prompt if requests.source is None else requests.source
        said = torch.full((rows, width), NOTHING)
        if given is not None:
            assert given.shape[1] <= width
            words = given[:, 1:] if requests.source is None else given
            said[:, : words.shape[1]] = words
        said[:, 0] = torch.where(said[:, 0] == NOTHING, 5, said[:, 0])
        nothing = torch.full((rows, width), NOTHING)

        def option(name: str, usual: float) -> Tensor:
            return requests.options.get(name, torch.full((rows,), usual)).clone()

        return Talking(
            **blank(requests, (width,), torch.device("cpu"), nothing),
            finish=torch.zeros(rows, dtype=torch.int64),
            logprob=torch.zeros(rows, width),
            top_token=torch.zeros(rows, width, TOP, dtype=torch.int64),
            top_logprob=torch.zeros(rows, width, TOP),
            said=said,
            count=(said != NOTHING).sum(1),
            greedy=option("temperature", 1) == 0,
            end=option("end", END),
            most=option("max_tokens", width),
            top=option("top_logprobs", -1),
        )

    def advance(self, networks: Networks, state: State) -> State:
        assert isinstance(state, Talking)
        time.sleep(self.pause)
        chance = (uniform(state.seed, state.step) * state.count).long()
        place = torch.where(state.greedy, state.step % state.count, chance)
        for row in (~state.done).nonzero().flatten().tolist():
            token, length = int(state.said[row, place[row]]), int(state.length[row])
            state.step[row] += 1
            if token == int(state.end[row]):
                state.finish[row] = 1
            else:
                state.output[row, length] = token
                state.length[row] += 1
                if int(state.top[row]) >= 0:
                    self._likely(state, row, length, token)
                if length + 1 >= int(state.most[row]):
                    state.finish[row] = 2
        state.done |= state.finish > 0
        return state

    def _likely(self, state: Talking, row: int, length: int, token: int) -> None:
        rivals = torch.arange(TOP)
        state.logprob[row, length] = -0.5
        state.top_token[row, length] = (token + rivals) % self.vocabulary
        state.top_logprob[row, length] = -0.5 - rivals


def parrot(
    folder: Path, name: str = "tales", chat: bool = True, source: bool = False, pause: float = 0.0
) -> Loaded:
    """A warm parrot that reads bytes; `source` makes it one of pairs."""
    folder = folder / name
    folder.mkdir()
    tokenizer = train_tokenizer("bytes", [], 0, chat)
    tokenizer.save(folder)
    vocabulary = tokenizer.vocabulary
    family = Parrot(context=CONTEXT, vocabulary=vocabulary, pause=pause)
    shape = Shape(
        data=(CONTEXT,),
        vocabulary=vocabulary,
        prompt=None if source else (CONTEXT, vocabulary),
        source=(32,) if source else None,
    )
    about = About(name, f"{name}-parrot", name, "0" * 16, "CC0", "text", (), "text", "", {}, "", False, 0)
    model = Model(family, family.networks(shape), shape, about, "d" * 64, 4, Text(folder))
    loaded = Loaded(Served(name, 2, folder, 1_700_000_000), model, Engine(model))
    loaded.generate(model.modality.warm(model.shape))
    return loaded


def complete(client: TestClient, **body: Any) -> Any:
    answer = client.post(COMPLETE, json={"model": "tales", "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(client: TestClient, **body: Any) -> Any:
    answer = client.post(CHAT, json={"model": "tales", "temperature": 0, "messages": HI, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(client: TestClient, url: str, **body: Any) -> list[Any]:
    """The events of a stream, which must end as OpenAI's do."""
    answer = client.post(url, json={"model": "tales", "temperature": 0, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, done, nothing = answer.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def texts(events: list[Any], rows: int = 1) -> list[str]:
    said = [""] * rows
    for event in events:
        for choice in event["choices"]:
            said[choice["index"]] += (
                choice["text"] if "text" in choice else choice["delta"].get("content", "")
            )
    return said
