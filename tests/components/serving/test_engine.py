from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.artifact import Model, load
from components.errors import FailedError
from components.families.family import Networks, Requests, State
from components.families.sampling import sample
from components.serving.engine import Engine, QueueFullError
from components.serving.pace import Pace
from tests.components.serving.slow import LAST, WIDTH, Slow, ask, until_asleep
from tests.until import until


@pytest.fixture
def model(artifact: Callable[..., Path], tmp_path: Path) -> Model:
    return load(artifact(tmp_path / "artifact"))


@pytest.fixture
def start(model: Model) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def begin(pause: float = 0.0, **options: Any) -> Engine:
        slow = Slow(latent=4, width=32, depth=1, pause=pause)
        engine = Engine(dataclasses.replace(model, family=slow), WIDTH, **options)
        engines.append(engine)
        return engine

    yield begin
    for engine in engines:
        engine.close()


def test_the_engine_draws_what_the_plain_sampler_draws(model: Model) -> None:
    engine = Engine(model)
    requests = Requests(seed=torch.arange(40))
    expected = sample(model.family, model.networks, requests, model.width)
    assert torch.equal(engine.submit(requests).result(30), expected)
    engine.close()


def test_a_seed_gives_the_same_bits_whatever_the_neighbours(start: Callable[..., Engine]) -> None:
    engine = start()
    alone = {steps: engine.submit(ask([7], steps)).result(30) for steps in (1, 3, 5)}
    results: list[tuple[int, Tensor]] = []

    def client(number: int) -> None:
        for turn in range(15):
            steps = (1, 3, 5)[(number + turn) % 3]
            others = engine.submit(ask([100 * number + turn] * (1 + turn % 5), 1 + turn % 4))
            results.append((steps, engine.submit(ask([7], steps)).result(30)))
            others.result(30)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 90
    assert all(torch.equal(drawn, alone[steps]) for steps, drawn in results)


def test_a_short_request_enters_and_leaves_while_a_long_one_runs(start: Callable[..., Engine]) -> None:
    engine = start(pause=0.01)
    long = engine.submit(ask([1], 100_000))
    until(lambda: engine.tally.steps > 2)
    engine.submit(ask([2], 2)).result(30)
    assert not long.done()
    long.cancel()


def test_more_rows_than_places_come_back_in_order(start: Callable[..., Engine]) -> None:
    engine = start()
    together = engine.submit(ask(list(range(11)), 2)).result(30)
    single = [engine.submit(ask([seed], 2)).result(30) for seed in range(11)]
    assert torch.equal(together, torch.cat(single))


def test_one_request_of_many_rows_does_not_hold_up_the_next(start: Callable[..., Engine]) -> None:
    engine = start(pause=0.005)
    many = engine.submit(ask(list(range(50 * WIDTH)), 2))
    engine.submit(ask([1], 2)).result(30)
    assert not many.done()
    assert engine.waiting > 40 * WIDTH, "it enters with the next places that are free"
    many.cancel()


def test_a_cancelled_request_frees_its_places(start: Callable[..., Engine]) -> None:
    engine = start(pause=0.005)
    full = engine.submit(ask(list(range(WIDTH + 3)), 100_000))
    until(lambda: engine.waiting == 3)
    assert full.cancel()
    assert engine.submit(ask([1], 1)).result(30).shape == (1, 1, 8, 8)
    assert engine.waiting == 0


def test_a_full_queue_refuses_and_takes_again_later(start: Callable[..., Engine]) -> None:
    engine = start(pause=0.005, queue=6)
    running = engine.submit(ask([1] * WIDTH, 100_000))
    until(lambda: engine.waiting == 0)
    waiting = engine.submit(ask([2] * 6, 1))
    with pytest.raises(QueueFullError):
        engine.submit(ask([3], 1))
    running.cancel()
    assert len(waiting.result(30)) == 6
    assert len(engine.submit(ask([3], 1)).result(30)) == 1


def test_a_queue_that_would_take_too_long_refuses_and_takes_again_later(
    start: Callable[..., Engine],
) -> None:
    engine = start(pause=0.02, patience=0.5)
    engine.submit(ask([1] * 2 * WIDTH, 2)).result(30)
    long = engine.submit(ask([1] * 100, 2))  # which the engine was free for
    with pytest.raises(QueueFullError):
        engine.submit(ask([2], 1))
    assert len(long.result(60)) == 100
    assert len(engine.submit(ask([2], 1)).result(30)) == 1


def test_the_pace_counts_full_steps_and_what_is_recent() -> None:
    pace = Pace()
    for _ in range(3):
        pace.add(1.0, 1, 0)  # rows of four steps, one at a time
        pace.add(1.0, 1, 0)
        pace.add(1.0, 1, 0)
        pace.add(1.0, 1, 1)
    assert pace.wait(8, WIDTH) == 0.0
    for _ in range(20):
        pace.add(1.0, 1, 0)
        pace.add(1.0, 1, 0)
        pace.add(1.0, 1, 0)
        pace.add(1.0, 1, 1)
    assert pace.wait(8, WIDTH) == pytest.approx(8.0)
    for _ in range(1000):
        pace.add(0.1, WIDTH, WIDTH)
    assert pace.wait(8, WIDTH) == pytest.approx(0.2, rel=0.05)


def test_a_step_that_breaks_fails_those_in_flight_and_the_engine_goes_on(
    start: Callable[..., Engine],
) -> None:
    engine = start(pause=0.01)
    before = engine.submit(ask([1], 2)).result(30)
    neighbour = engine.submit(ask([5], 100_000))
    until(lambda: engine.tally.steps > 3)
    broken = engine.submit(ask([6], -1))
    for future in (broken, neighbour):
        with pytest.raises(FailedError, match="RuntimeError: the step broke"):
            future.result(30)
    assert torch.equal(engine.submit(ask([1], 2)).result(30), before)
    assert engine.healthy


def test_a_request_that_cannot_start_fails_alone(start: Callable[..., Engine]) -> None:
    engine = start(pause=0.01)
    neighbour = engine.submit(ask([5], 20))
    with pytest.raises(FailedError, match="no such label"):
        engine.submit(ask([6], 99)).result(30)
    assert len(neighbour.result(30)) == 1


def test_what_a_loop_hands_over_in_one_turn_starts_together(start: Callable[..., Engine]) -> None:
    engine = start()
    alone = torch.cat([engine.submit(ask([seed], 3)).result(30) for seed in range(WIDTH)])
    until_asleep(engine)
    before = engine.tally.steps

    async def together() -> list[Tensor]:
        soon = asyncio.get_running_loop().call_soon
        waiting = [asyncio.wrap_future(engine.submit(ask([seed], 3), when=soon)) for seed in range(WIDTH)]
        return await asyncio.gather(*waiting)

    assert torch.equal(torch.cat(asyncio.run(together())), alone)
    assert engine.tally.steps == before + 3


def test_one_that_cannot_start_takes_nobody_with_it(start: Callable[..., Engine]) -> None:
    engine = start()
    alone = engine.submit(ask([7], 2)).result(30)

    async def together() -> list[Any]:
        asked = [ask([7], 2), ask([8], 99), Requests(seed=torch.tensor([9])), ask([7], 2)]
        soon = asyncio.get_running_loop().call_soon
        waiting = [asyncio.wrap_future(engine.submit(one, when=soon)) for one in asked]
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, wrong, other, last = asyncio.run(together())
    assert torch.equal(first, alone)
    assert torch.equal(last, alone)
    assert isinstance(wrong, FailedError)
    assert isinstance(other, FailedError)
    assert torch.equal(engine.submit(ask([7], 2)).result(30), alone)


def test_a_loop_may_wait_for_what_it_submits(start: Callable[..., Engine]) -> None:
    engine = start()

    async def warm() -> Tensor:
        return engine.submit(ask([1], 1)).result(30)

    assert asyncio.run(warm()).shape == (1, 1, 8, 8)


def test_an_engine_whose_steps_keep_failing_is_unhealthy_until_one_succeeds(
    start: Callable[..., Engine],
) -> None:
    engine = start()
    for _ in range(3):
        with pytest.raises(FailedError):
            engine.submit(ask([1], -1)).result(30)
    assert not engine.healthy
    engine.submit(ask([1], 1)).result(30)
    assert engine.healthy


def test_closing_ends_the_thread_and_tells_who_waits(start: Callable[..., Engine]) -> None:
    threads = torch.get_num_threads()
    engine = start(pause=0.005)
    futures = [engine.submit(ask([seed] * WIDTH, 100_000)) for seed in range(2)]
    engine.close()
    for future in futures:
        with pytest.raises(FailedError, match="closed"):
            future.result(0)
    with pytest.raises(FailedError, match="closed"):
        engine.submit(ask([1], 1))
    assert not engine.healthy
    assert torch.get_num_threads() == threads


def test_a_thread_that_ends_tells_who_waits_and_takes_nothing_more(start: Callable[..., Engine]) -> None:
    engine = start(pause=0.01)
    running = engine.submit(ask([1] * (WIDTH - 1), 100_000))
    until(lambda: engine.tally.steps > 0)
    last = engine.submit(ask([2], LAST))
    waiting = engine.submit(ask([3], 1))
    for future in (running, last, waiting):
        with pytest.raises(FailedError, match="SystemExit: the thread ends"):
            future.result(30)
    assert not engine.healthy
    assert engine.sick
    with pytest.raises(FailedError, match="closed"):
        engine.submit(ask([4], 1))


def test_who_closes_an_engine_that_hangs_does_not_wait_for_ever(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(family: Slow, networks: Networks, state: State) -> State:
        over.wait(60)
        return state

    monkeypatch.setattr("components.serving.engine.ENDING", 0.1)
    monkeypatch.setattr(Slow, "advance", hang)
    engine = start()
    hangs = engine.submit(ask([1], 5))
    until(lambda: engine.stalled > 0.1)
    assert engine.healthy
    engine.close()
    assert engine.stalled > 0.1, "the step is still under way"
    assert not hangs.done()
    over.set()
    with pytest.raises(FailedError, match="closed"):
        hangs.result(30)


def test_a_step_that_never_ends_makes_an_engine_unhealthy(
    start: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.serving.engine.HANGS", 0.1)
    engine = start(pause=0.5)
    work = engine.submit(ask([1], 4))
    until(lambda: not engine.healthy)
    work.result(30)
    assert engine.healthy
    assert engine.stalled == 0.0
