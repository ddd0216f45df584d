"""What clients see of deaths: kill -9 of one of two replicas under load, and an engine's thread that ends."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import httpx

from components.families.gan import GAN
from components.project import Project, open_project
from tests.benchmarks.echo import LAST
from tests.benchmarks.load import Load, percentile, press, seconds
from tests.benchmarks.row import Row
from tests.benchmarks.serve import CONNECTIONS, MILLI, bodies
from tests.benchmarks.site import DRAW, MNIST, SMALL, echo, processes, publish, serving
from tests.until import until

BEFORE, SECONDS = 5.0, 20.0


def run(project: Path) -> list[Row]:
    """Two servers after each other."""
    where = open_project(project)
    publish(where, "mnist", GAN(), MNIST)
    publish(where, "echo", echo(where), SMALL)
    with serving(where, ["mnist"], replicas=2) as url:
        rows = [replica(where, url)]
    with serving(where, ["echo"]) as url:
        return [*rows, engine(where, url)]


def replica(where: Project, url: str) -> Row:
    """The requests that fail when a replica is killed; all must have been on it when it was."""
    over, load = threading.Event(), Load()
    killed: list[float] = []
    back: list[float] = []

    def killer() -> None:
        time.sleep(seconds(BEFORE))
        victim = processes(where)[0]
        killed.append(time.perf_counter())
        victim.kill()
        until(lambda: not victim.is_running())
        back.append(until(lambda: len(processes(where)) == 2))
        time.sleep(seconds(SECONDS))
        over.set()

    killing = threading.Thread(target=killer)
    killing.start()
    asyncio.run(press(f"{url}{DRAW}", bodies(), CONNECTIONS, over.is_set, load))
    killing.join()
    at = killed[0]
    running = sum(answered - took <= at < answered for answered, took, *_ in load.answers)
    running += sum(asked <= at < ended for asked, ended in load.lost)
    later = [asked for asked, _ in load.failures() if asked > at]
    slowest = percentile(load.latencies(lambda answered: answered > at), 1.0)
    return Row(
        f"kill -9 of one of two replicas under load, {CONNECTIONS} connections",
        f"{load.failed} of {load.asked:,} requests failed, {len(later)} of them asked after it; {running} were under "
        f"way on both; {len(load.malformed)} failures not in our form; the slowest answer after it took "
        f"{slowest * MILLI:.0f} ms; two replicas again after {back[0]:.1f} s",
        "failed ≤ those in flight on it",
        {"failed": load.failed, "later": len(later), "running": running, "malformed": len(load.malformed)},
    )


def engine(where: Project, url: str) -> Row:
    """A request that ends the engine's thread, and the time until a new replica answers."""
    (before,) = processes(where)
    with httpx.Client(timeout=300) as client:  # a request may wait for the new replica
        last = client.post(f"{url}{DRAW}", json={"seed": LAST})
        assert last.status_code == 500, last.text
        statuses: dict[int, int] = {}

        def answered() -> bool:
            status = client.post(f"{url}{DRAW}", json={"seed": 1}).status_code
            statuses[status] = statuses.get(status, 0) + 1
            return status == 200

        took = until(answered)
    until(lambda: before.pid not in {process.pid for process in processes(where)})
    said = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    return Row(
        "the engine's thread ends, one replica",
        f"its request is told so at once ({last.json()['error']['code']}); a new replica answers after {took:.1f} s; "
        f"meanwhile {said}",
        "the replica is replaced",
        {"seconds": took},
    )
