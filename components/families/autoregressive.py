"""The autoregressive half that GPT, LSTM and encoder–decoder share: the loss of the next token, and the sampler.

log p(row) is the sum of log p(token | tokens before it in its document). A family adds its network.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from components.families.family import (
    END,
    NOTHING,
    Batch,
    Family,
    Kind,
    Losses,
    Networks,
    Requests,
    State,
    Task,
)
from components.families.layers.choose import COLUMN, TOP, choose, table, told, used
from components.families.sampling import blank, device_of, uniform

CHUNK = 64
"""Tokens of prompts that enter in one step at most."""
PIECE = 8192
"""Predictions whose logits are held at once where only their likelihood is wanted."""


@dataclass(kw_only=True)
class TextState(State):
    """Rows of text being written; `output` int64 [R, T] holds the new tokens only.

    `finish` [R] is 0 while a row runs, 1 when its end token was drawn (which is not in the output), 2 when
    `max_tokens` are there or the context is full. `logprob` [R, T] of each token and `top_token`,
    `top_logprob` [R, T, 20] are the model's own, where `top_logprobs` asks for them. `step` counts draws.

    `prompt` [R, T] has `given` [R] tokens; `entered` [R] is how many tokens the memory has seen, `token` [R]
    the next to enter, `begin` [R] the place where its document begins, `waited` [R] for how many steps a prompt
    was passed over; `settings` are the options; `memory` [R, …] is what the network keeps of a row.
    """

    finish: Tensor
    logprob: Tensor
    top_token: Tensor
    top_logprob: Tensor
    prompt: Tensor
    given: Tensor
    entered: Tensor
    token: Tensor
    begin: Tensor
    waited: Tensor
    settings: Tensor
    memory: Tensor


class Waiting(NamedTuple):
    """A prompt of `given` tokens at a `row`, of which `entered` are in, passed over for `waited` steps."""

    row: int
    entered: int
    given: int
    waited: int

    @property
    def chunk(self) -> range:
        """The places of the tokens that enter together next."""
        return range(self.entered, min(self.entered + CHUNK, self.given - 1))


class Language(nn.Module):
    """A network that predicts the next token, from a whole row or step by step with a memory."""

    context: int
    """T, the tokens that a row holds at most."""

    @abstractmethod
    def features(self, tokens: Tensor, source: Tensor | None) -> Tensor:
        """Tokens [N, L], padded with `NOTHING`, → what their successors are predicted from, [N, L, width]."""

    @abstractmethod
    def head(self, features: Tensor) -> Tensor:
        """Features [..., width] → logits [..., V]."""

    def forward(self, tokens: Tensor, source: Tensor | None = None) -> Tensor:
        """Tokens [N, L] → logits of each token's successor [N, L, V]; `source` [N, S] where there is one."""
        return self.head(self.features(tokens, source))

    @abstractmethod
    def blank(self, requests: Requests) -> dict[str, Tensor]:
        """The `memory` of rows that have seen nothing, and whatever else the family's state has."""

    @abstractmethod
    def enter(self, tokens: Tensor, row: int, first: int, state: Any) -> None:
        """Let the `tokens` [1, L] of one row, which begin at its place `first`, into the memory."""

    @abstractmethod
    def step(self, state: Any, ready: Tensor) -> Tensor:
        """Let `state.token` of each row into the memory at `state.entered`; the successors' logits [R, V].

        All rows are computed, but to those that are not `ready` (bool [R]) it must not matter.
        """


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Family):
    """A family with one network, `decoder`, that is a `Language`."""

    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.TOKENS})
    tasks: ClassVar[frozenset[Task]] = frozenset({Task.FREE, Task.PROMPT})
    state: ClassVar[type[TextState]] = TextState
    # `private` stays empty: the loss is a mean over tokens, in which long rows weigh more than short ones

    def loss(self, name: str, networks: Networks, batch: Batch, step: int) -> Losses:
        """The mean of −log p(token) over the predicted tokens, in nats; logs it in bits."""
        network = language(networks)
        features, targets, _ = _predicted(network, batch)
        total = cross_entropy(network.head(features).float(), targets, reduction="sum")
        loss = total / max(len(targets), 1)
        return loss, {"bits_per_token": loss.detach() / math.log(2)}

    def nats(self, networks: Networks, batch: Batch) -> Tensor:
        """−log p of the tokens of each row behind the given ones, [N]."""
        network = language(networks)
        features, targets, counted = _predicted(network, batch)
        pieces = zip(torch.split(features, PIECE), torch.split(targets, PIECE), strict=True)
        nats = [cross_entropy(network.head(part).float(), aims, reduction="none") for part, aims in pieces]
        spread = torch.zeros(counted.shape, device=counted.device)
        return spread.masked_scatter(counted, torch.cat(nats)).sum(1)

    def start(self, networks: Networks, requests: Requests) -> TextState:
        """Rows whose prompts wait to enter; raises ValueError for a prompt that is longer than the context."""
        network, rows, device = language(networks), len(requests), device_of(networks)
        length = network.context
        prompt = _prompt(requests, length, device)
        given = (prompt != NOTHING).sum(1)
        settings = table(requests.options, rows, device)
        fields = blank(requests, (), device, torch.full((rows, length), NOTHING, device=device))
        fields["done"] = (given >= length) | (settings[:, COLUMN["max_tokens"]] <= 0)
        zeros = torch.zeros(rows, dtype=torch.int64, device=device)
        return self.state(
            **fields,
            finish=torch.where(fields["done"], 2, 0),
            logprob=torch.zeros(rows, length, device=device),
            top_token=torch.full((rows, length, TOP), NOTHING, device=device),
            top_logprob=torch.full((rows, length, TOP), float("-inf"), device=device),
            prompt=prompt,
            given=given,
            entered=zeros,
            token=prompt.gather(1, given[:, None] - 1).squeeze(1),
            begin=zeros.clone(),
            waited=zeros.clone(),
            settings=settings,
            **network.blank(requests),
        )

    def advance(self, networks: Networks, state: State) -> State:
        """Chunks of the prompts that have waited longest, then one token of every row whose prompt is in."""
        assert isinstance(state, TextState)
        network = language(networks)
        places = torch.stack((state.done.long(), state.entered, state.given, state.waited)).tolist()
        rows = zip(range(len(places[0])), *places, strict=True)
        waiting = [
            Waiting(row, at, given, waited)
            for row, done, at, given, waited in rows
            if not done and at < given - 1
        ]
        running = places[0].count(0) - len(waiting)
        if waiting:
            running += _enter(network, state, waiting)
        if running:
            ready = ~state.done
            _write(network, state, ready & (state.entered >= state.given - 1) if waiting else ready)
        return state


def language(networks: Networks) -> Language:
    """The network of an autoregressive family."""
    network = networks["decoder"]
    assert isinstance(network, Language)
    return network


def _predicted(network: Language, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The features [M, width] and targets [M] of the predicted tokens, and which those are, bool [N, L]."""
    tokens = batch.data[:, : max(int(batch.length.max()), 2)]
    place = torch.arange(1, tokens.shape[1], device=tokens.device)
    counted = place < batch.length[:, None]
    if batch.given is not None:
        counted &= place >= batch.given[:, None]
    features = network.features(tokens[:, :-1], batch.source)
    targets = tokens[:, 1:]
    if bool(counted.all()):
        return features.flatten(0, 1), targets.flatten(), counted
    return features[counted], targets[counted], counted


def _prompt(requests: Requests, length: int, device: torch.device) -> Tensor:
    """The prompts padded or cut to [N, length]; `END` where there is none."""
    prompt = torch.full((len(requests), length), NOTHING, device=device)
    prompt[:, 0] = END
    if requests.prompt is None:
        return prompt
    asked = requests.prompt.to(device)
    if bool((asked[:, length:] != NOTHING).any()):
        raise ValueError(f"a prompt is longer than the context of {length} tokens")
    kept = min(asked.shape[1], length)
    prompt[:, :kept] = asked[:, :kept]
    return prompt


def _enter(network: Language, state: TextState, waiting: list[Waiting]) -> int:
    """Let chunks of waiting prompts in, those that wait longest first; how many are in now but for the last token.

    A row's chunks are the same whoever waits beside it, so its bits do not depend on the others; together they are
    no longer than one chunk may be, so that those who write wait no longer for many short prompts than for a long one.
    """
    entering, room = list[Waiting](), CHUNK
    for prompt in sorted(waiting, key=lambda prompt: (-prompt.waited, prompt.row)):
        if len(prompt.chunk) <= room:
            room -= len(prompt.chunk)
            entering.append(prompt)
    for row, first, last in ((prompt.row, prompt.chunk.start, prompt.chunk.stop) for prompt in entering):
        network.enter(state.prompt[row : row + 1, first:last], row, first, state)
        state.entered[row] = last
    state.waited[[prompt.row for prompt in waiting]] += 1
    state.waited[[prompt.row for prompt in entering]] = 0
    return sum(prompt.chunk.stop == prompt.given - 1 for prompt in entering)


def _write(network: Language, state: TextState, ready: Tensor) -> None:
    """Draw the next token of the rows that are `ready` (bool [R]); the others compute along and stay as they are."""
    state.begin = torch.where(ready & (state.token == END), state.entered, state.begin)
    logits = network.step(state, ready).float()
    asked = used(state.settings, ready)
    chance = uniform(state.seed, state.step).to(logits.device)
    drawn = choose(logits, state.settings, asked, chance, state.prompt, state.output)
    end = state.settings[:, COLUMN["end"]]
    ended = (drawn == end) | ((drawn == END) & (end > END))  # a chat's turn ends with its document too
    kept = ready & ~ended
    # behind its length a row holds nothing, so nothing is what the others may write there
    place = state.length[:, None].clamp(max=state.output.shape[1] - 1)
    state.output.scatter_(1, place, torch.where(kept, drawn, NOTHING)[:, None])
    if "top_logprobs" in asked:
        _tell(state, logits, drawn, kept & (state.settings[:, COLUMN["top_logprobs"]] >= 0), place)
    state.length += kept
    state.step += ready
    state.entered += ready
    state.token = torch.where(ready, drawn, state.token)
    full = state.length >= state.settings[:, COLUMN["max_tokens"]]
    full |= state.entered >= state.output.shape[1] - 1
    over = ready & (ended | full)
    state.finish = torch.where(over, torch.where(ended, 1, 2), state.finish)
    state.done |= over


def _tell(state: TextState, logits: Tensor, drawn: Tensor, rows: Tensor, place: Tensor) -> None:
    """Write the log probabilities of the `drawn` tokens, and of the likeliest, at `place` [R, 1] of `rows`."""
    index = rows.nonzero().squeeze(1)
    own, tokens, values = told(logits, drawn)
    at = place[index, 0]
    state.logprob[index, at] = own[index]
    state.top_token[index, at], state.top_logprob[index, at] = tokens[index], values[index]
