"""Who listens to a request hears each of its rows grow, and may end them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from components.artifact import About, Model
from components.errors import FailedError
from components.families.family import NOTHING, Requests, Shape
from components.modalities.text import Text
from components.serving.engine import Engine
from components.serving.listening import News, Span, read
from tests.components.serving.parrot import Parrot
from tests.until import until

WIDTH = 4


@pytest.fixture
def engine() -> Iterator[Engine]:
    family = Parrot(context=32, pause=0.002)
    shape = Shape(data=(32,), vocabulary=261, prompt=(32, 261))
    about = About("tales", "", "", "", "", "", (), "text", "", {}, "", False, 0)
    engine = Engine(Model(family, family.networks(shape), shape, about, "", WIDTH, Text(Path())), WIDTH)
    yield engine
    engine.close()


def ask(rows: int, most: int = 20, top: list[int] | None = None, first: int = 0) -> Requests:
    """Rows that say 10, 11, 12 by chance."""
    options = {"max_tokens": torch.full((rows,), most)}
    if top is not None:
        options["top_logprobs"] = torch.tensor(top)
    prompt = torch.tensor([[0, 10, 11, 12]]).expand(rows, -1)
    return Requests(seed=torch.arange(first, first + rows), prompt=prompt, options=options)


def test_a_listener_hears_every_token_once_and_in_order(engine: Engine) -> None:
    heard: dict[int, list[int]] = {row: [] for row in range(6)}
    finished: list[int] = []

    def listen(news: News) -> bool:
        assert threading.current_thread().name == "engine-tales"
        heard[news.row] += news.tokens
        if news.finish:
            finished.append(news.row)
        return False

    output = engine.submit(ask(6), listen).result(30)
    assert [heard[row] for row in range(6)] == output[:, :20].tolist()
    assert sorted(finished) == list(range(6))
    assert torch.equal(engine.submit(ask(6)).result(30), output)


def test_a_row_that_is_ended_leaves_at_once_and_its_neighbours_go_on(engine: Engine) -> None:
    whole = engine.submit(ask(3)).result(30)
    count = [0] * 3

    def listen(news: News) -> bool:
        count[news.row] += len(news.tokens)
        return news.row == 1 and count[1] == 5

    output = engine.submit(ask(3), listen).result(30)
    assert count == [20, 5, 20]
    assert output[1].tolist() == [*whole[1, :5].tolist(), *[NOTHING] * 27]
    assert torch.equal(output[[0, 2]], whole[[0, 2]])
    assert not engine.busy


def test_a_listener_that_fails_ends_its_own_request_only(engine: Engine) -> None:
    def listen(news: News) -> bool:
        raise KeyError("gone")

    neighbour = engine.submit(ask(2, first=7))
    broken = engine.submit(ask(5), listen)
    with pytest.raises(FailedError, match="KeyError"):
        broken.result(30)
    assert torch.equal(neighbour.result(30), engine.submit(ask(2, first=7)).result(30))
    assert engine.healthy


def test_log_probabilities_come_where_they_are_asked_for(engine: Engine) -> None:
    heard: list[News] = []

    def listen(news: News) -> bool:
        heard.append(news)
        return False

    engine.submit(ask(3, most=4, top=[-1, 0, 3]), listen).result(30)
    for news in heard:
        assert len(news.tokens) == 1
        if news.row == 0:
            assert (list(news.logprobs), list(news.top)) == ([], [])
        if news.row == 1:
            assert (list(news.logprobs), list(news.top)) == ([-0.5], [[]])
        if news.row == 2:
            token = news.tokens[0]
            assert list(news.top) == [[(token, -0.5), (token + 1, -1.5), (token + 2, -2.5)]]


def test_a_cancelled_request_is_not_heard_of_again(engine: Engine) -> None:
    heard: list[News] = []

    def listen(news: News) -> bool:
        heard.append(news)
        return False

    future = engine.submit(ask(100 * WIDTH), listen)
    until(lambda: heard)
    assert future.cancel()
    until(lambda: not engine.busy)
    assert engine.tally.steps < 50 * 20, "of the 100 * 20 that all rows would have taken"
    count = len(heard)
    time.sleep(0.02)
    assert len(heard) == count


def test_fewer_tokens_than_were_asked_for_are_named() -> None:
    state = SimpleNamespace(
        output=torch.tensor([[1, 2]]),
        logprob=torch.tensor([[-0.5, -0.25]]),
        top_token=torch.tensor([[[1, 0, -1], [2, -1, -1]]]),
        top_logprob=torch.tensor([[[-0.5, -1.0, 0.0], [-0.25, 0.0, 0.0]]]),
    )
    (news,) = read(state, [Span(0, 0, 0, 2, 0)], [ask(1, top=[3])], [])
    assert [list(each) for each in news.top] == [[(1, -0.5), (0, -1.0)], [(2, -0.25)]]
