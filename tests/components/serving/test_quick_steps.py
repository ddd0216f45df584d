"""Steps that are so quick that the loop which asks computes them itself."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from components.artifact import Model, load
from components.errors import FailedError
from components.families.family import Networks, Requests, State
from components.serving.engine import Engine
from components.serving.pace import KNOWN, RECENT
from tests.components.serving.slow import LAST, WIDTH, Slow, ask, until_asleep


@pytest.fixture
def model(artifact: Callable[..., Path], tmp_path: Path) -> Model:
    return load(artifact(tmp_path / "artifact"))


@pytest.fixture
def quick(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Engine, list[int]]]:
    """An engine whose steps are quick, however busy the machine is, and the threads that computed them."""
    monkeypatch.setattr("components.serving.pace.QUICK", 60.0)
    where: list[int] = []

    class Watched(Slow):
        def advance(self, networks: Networks, state: State) -> State:
            where.append(threading.get_ident())
            return super().advance(networks, state)

    family = Watched(latent=4, width=32, depth=1)
    engine = Engine(dataclasses.replace(model, family=family), WIDTH, threads=torch.get_num_threads())
    for _ in range(KNOWN):
        engine.submit(ask([1], 1)).result(30)
    where.clear()
    until_asleep(engine)
    yield engine, where
    engine.close()


async def soon(engine: Engine, requests: Requests) -> Tensor:
    """The rows, as a route asks for them."""
    work = engine.submit(requests, when=asyncio.get_running_loop().call_soon)
    return await asyncio.wait_for(asyncio.wrap_future(work), 30)


def test_a_quick_step_is_computed_on_the_loop_with_the_same_bits(quick: tuple[Engine, list[int]]) -> None:
    engine, where = quick
    alone = engine.submit(ask([7], 1)).result(30)
    assert threading.get_ident() not in where

    async def together() -> list[Tensor]:
        return await asyncio.gather(*(soon(engine, ask([seed, seed + 1], 1)) for seed in (7, 20, 30, 40)))

    where.clear()
    until_asleep(engine)
    drawn = asyncio.run(together())
    assert where == [threading.get_ident()] * 2
    assert torch.equal(drawn[0][:1], alone)
    assert not engine.busy


def test_rows_of_several_steps_go_to_the_engine_s_thread(quick: tuple[Engine, list[int]]) -> None:
    engine, where = quick
    alone = engine.submit(ask([7], 3)).result(30)
    where.clear()
    assert torch.equal(asyncio.run(soon(engine, ask([7], 3))), alone)
    assert threading.get_ident() not in where


def test_slow_steps_go_to_the_engine_s_thread(quick: tuple[Engine, list[int]]) -> None:
    engine, where = quick
    engine._pace.recent.extend([61.0] * RECENT)
    asyncio.run(soon(engine, ask([7], 1)))
    assert threading.get_ident() not in where


def test_a_short_step_is_computed_on_the_loop_while_no_other_engine_works(
    quick: tuple[Engine, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, where = quick
    monkeypatch.setattr("components.serving.pace.QUICK", 0.0)
    monkeypatch.setattr("components.serving.pace.SHORT", 60.0)
    here = threading.get_ident()
    alone = asyncio.run(soon(engine, ask([7], 1)))
    assert where == [here]

    async def several(*asked: Requests) -> list[Tensor]:
        return await asyncio.gather(*(soon(engine, one) for one in asked))

    for asked in ([ask([7], 1), ask([20], 1)], [ask([7, *range(WIDTH)], 1)]):
        where.clear()
        assert torch.equal(asyncio.run(several(*asked))[0][:1], alone)
        assert set(where) == {here}
    where.clear()
    with monkeypatch.context() as patch:  # another model of the replica is at work
        patch.setattr("components.serving.engine.ENGINES", [engine, SimpleNamespace(busy=True)])
        assert torch.equal(asyncio.run(soon(engine, ask([7], 1))), alone)
    assert where
    assert here not in where
    until_asleep(engine)
    monkeypatch.setattr("components.serving.pace.SHORT", 0.0)
    where.clear()
    assert torch.equal(asyncio.run(soon(engine, ask([7], 1))), alone)
    assert here not in where


def test_a_loop_and_threads_may_ask_at_the_same_time(quick: tuple[Engine, list[int]]) -> None:
    engine, where = quick
    alone = engine.submit(ask([7], 1)).result(30)
    drawn: list[Tensor] = []

    def client() -> None:
        drawn.extend(engine.submit(ask([7], 1)).result(30) for _ in range(50))

    async def loop() -> None:
        for turn in range(50):
            drawn.extend(await asyncio.gather(*(soon(engine, ask([7, turn], 1)) for _ in range(3))))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(loop())
    for thread in threads:
        thread.join()
    assert len(drawn) == 300
    assert all(torch.equal(rows[:1], alone) for rows in drawn)
    assert not engine.busy
    until_asleep(engine)
    assert torch.equal(asyncio.run(soon(engine, ask([7], 1))), alone)
    assert where[-1] == threading.get_ident()


def test_what_ends_the_engine_on_the_loop_does_not_end_the_loop(quick: tuple[Engine, list[int]]) -> None:
    engine, where = quick

    async def both() -> list[Any]:
        asked = (soon(engine, ask([1], LAST)), soon(engine, ask([2], 1)))
        return await asyncio.gather(*asked, return_exceptions=True)

    for told in asyncio.run(both()):
        assert isinstance(told, FailedError)
        assert "SystemExit: the thread ends" in str(told)
    assert where[-1] == threading.get_ident()
    assert engine.sick


def test_a_step_that_breaks_on_the_loop_is_told_and_the_engine_goes_on(
    quick: tuple[Engine, list[int]],
) -> None:
    engine, _ = quick
    with pytest.raises(FailedError, match="RuntimeError: the step broke"):
        asyncio.run(soon(engine, ask([1], -1)))
    assert asyncio.run(soon(engine, ask([1], 1))).shape == (1, 1, 8, 8)
    assert engine.healthy


def test_closing_tells_those_whom_the_loop_was_about_to_serve(quick: tuple[Engine, list[int]]) -> None:
    engine, _ = quick

    async def close() -> Tensor:
        work = engine.submit(ask([1], 1), when=asyncio.get_running_loop().call_soon)
        engine.close()
        return await asyncio.wrap_future(work)

    with pytest.raises(FailedError, match="closed"):
        asyncio.run(close())
