"""Runs jobs by Ray Data: one process of the cluster keeps the queue, others generate and write shards of Parquet.

The clerk is a detached actor, so it outlives the replica that took a job; it is started again when it dies, and goes
on from the jobs' folders. The shards themselves never pass through Ray: a process that generates writes its own,
under a name that says which rows it has, so that nothing is written twice and what is there is kept.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import ray.data
from filelock import FileLock
from ray.exceptions import RayActorError

from components import cluster
from components.errors import FailedError, UserError
from components.serving.jobs import Job, Jobs
from components.settings import Settings

log = logging.getLogger(__name__)
CLERK, NAMESPACE = "genloom-jobs", "genloom"
RUNNING = 2
"""Jobs that run at a time."""
EVERY = 1.0
"""Seconds between two looks at the queue."""
IDLE = 60.0
"""Seconds without a job after which the clerk ends."""
ATTEMPTS = 5
"""How often a job is begun without a finished shard before it is given up."""
NICE = 10
"""By how much serving and training go before jobs on a busy machine."""
SPARE = 2**30
"""Bytes of the disk that jobs leave free."""
PATIENCE = 60.0
"""Seconds that the clerk may take to come up."""


def jobs_of(settings: Settings) -> Jobs:
    """The project's jobs, which the clerk is told of."""
    return Jobs(settings.shared / "jobs", lambda: wake(settings))


def wake(settings: Settings) -> None:
    """See that the clerk is there and looks at the queue; the process must be connected to Ray."""
    for _ in range(3):
        clerk = (
            ray.remote(Clerk)
            .options(
                name=CLERK,
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
            )
            .remote(settings)
        )
        try:
            ray.get(clerk.wake.remote(), timeout=PATIENCE)
            return
        except RayActorError:
            continue  # it was just ending, as there was nothing to do


def resume(settings: Settings) -> None:
    """Go on with what was under way when the cluster ended, on a thread beside the caller."""

    def look() -> None:
        try:
            if any(jobs_of(settings).open()):
                wake(settings)
        except Exception:  # serving goes on, whatever is wrong with a job
            log.exception("the jobs could not be taken up again")

    threading.Thread(target=look, name="jobs", daemon=True).start()


def dismiss() -> None:
    """End the clerk, and with it what it runs; the jobs go on when something is served again."""
    try:
        ray.kill(ray.get_actor(CLERK, NAMESPACE))
    except ValueError:
        return


class Clerk:
    """Keeps the queue: the oldest jobs run, `RUNNING` of them at a time, each on a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.jobs = Jobs(settings.shared / "jobs")
        self._look = threading.Event()
        self._running: dict[str, threading.Thread] = {}
        self._self = ray.get_runtime_context().current_actor
        threading.Thread(target=self._run, name="clerk", daemon=True).start()

    def wake(self) -> None:
        """Look at the queue now."""
        self._look.set()

    def _run(self) -> None:
        """Work while there are jobs; the lock keeps out the clerk of another cluster that shares the folder."""
        self.jobs.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.jobs.folder / ".clerk"):
            idle = time.monotonic()
            while True:
                try:
                    if self._start():
                        idle = time.monotonic()
                    elif time.monotonic() - idle >= IDLE:
                        self._leave()
                except Exception:  # a folder that cannot be read now may be read the next time
                    log.exception("the queue of jobs could not be read")
                self._look.wait(EVERY)
                self._look.clear()

    def _start(self) -> bool:
        """Begin what there is room for; whether anything runs."""
        self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
        for job in self.jobs.open():
            if len(self._running) == RUNNING:
                break
            if job.id not in self._running:
                self._running[job.id] = threading.Thread(target=self._work, args=(job,), daemon=True)
                self._running[job.id].start()
        return bool(self._running)

    def _leave(self) -> None:
        """End this process unless a job has come; the lock is held until it has ended, so that none can come."""
        with self.jobs.lock():
            if any(self.jobs.open()):
                return
            ray.kill(self._self)
            time.sleep(PATIENCE)

    def _work(self, job: Job) -> None:
        """Run `job` to its end, or until the processes that generate have died too often at one stroke."""
        run = Run(self.jobs, job)
        if run.state.attempts > ATTEMPTS:
            run.end(f"The processes that generate ended {ATTEMPTS} times without a shard; see Ray's logs.")
            return
        try:
            for row in generated(job, self.settings, self.jobs.missing(job)):
                run.take(row)
            run.end()
        except Exception:  # Ray's own, such as a process that was killed; what a model does comes in a row
            log.exception("%s was interrupted", job.id)
            time.sleep(min(30.0, 2.0**run.state.attempts))


class Run:
    """One attempt at a job, and the state that it writes."""

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self.jobs, self.job = jobs, job
        _, before = jobs.get(job.id)
        self.began, self.fresh = time.monotonic(), 0
        self.state = before.model_copy(
            update={
                "status": "running",
                "done": job.n - sum(len(job.shard(place)) for place in jobs.missing(job)),
                "started": before.started or time.time(),
                "attempts": before.attempts + 1,
                "rate": None,
            }
        )
        self._keep()

    def take(self, row: Mapping[str, Any]) -> None:
        """Note a shard that is finished, or why there is none."""
        if self.state.error is None and row["error"]:
            self._keep(error=str(row["error"]))
            self.jobs.cancel(self.job.id)  # what other processes have begun is not wanted either
        if not row["done"]:
            return
        count = len(self.job.shard(int(row["shard"])))
        self.fresh += count
        rate = self.fresh / max(time.monotonic() - self.began, 1e-9)
        self._keep(done=self.state.done + count, rate=round(rate, 2), attempts=0)

    def end(self, error: str | None = None) -> None:
        """Write how it ended."""
        error = error or self.state.error
        whole = self.state.done == self.job.n
        status = "failed" if error else "done" if whole else "cancelled"
        for draft in self.jobs.data(self.job).glob(".*"):
            draft.unlink(missing_ok=True)  # of a process that was killed
        self._keep(status=status, error=error, rate=None, finished=time.time())

    def _keep(self, **changes: Any) -> None:
        self.state = self.state.model_copy(update=changes)
        self.jobs.keep(self.job.id, self.state)


def generated(job: Job, settings: Settings, shards: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    """Have Ray Data generate `shards`; a row for each as it is there: `shard`, whether it is `done`, `error`.

    Nothing reserves a CPU, as a job takes what serving and training leave.
    """
    if not shards:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False
    plan = ray.data.from_items([{"shard": place} for place in shards], override_num_blocks=len(shards))
    rows = plan.map_batches(
        Generator,
        fn_constructor_args=(job, settings),
        batch_size=1,
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(size=min(job.workers, len(shards), cores())),
        max_restarts=ATTEMPTS,
        max_task_retries=ATTEMPTS,
    )
    yield from rows.iter_rows()


def cores() -> int:
    """The CPUs of the cluster: more processes than that would generate no faster, and each holds the model."""
    return max(1, int(cluster.capacity().cpus))


class Generator:
    """A process that generates: it loads the version once, and writes a shard a call."""

    def __init__(self, job: Job, settings: Settings) -> None:
        os.nice(NICE)
        self.job, self.settings = job, settings
        self.jobs = Jobs(settings.shared / "jobs")
        self.loaded: Any = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Write one shard, unless the job is no longer wanted; an error is told in a sentence."""
        from components.serving.shards import StoppedError

        place, done, error = int(batch["shard"][0]), False, ""
        try:
            self._write(place)
            done = True
        except StoppedError:
            pass
        except UserError as known:
            error = str(known)
        except Exception as unknown:
            log.exception("%s failed at shard %d", self.job.id, place)
            error = f"The job failed at shard {place} ({type(unknown).__name__}: {unknown})."
        return {"shard": [place], "done": [done], "error": [error]}

    def _write(self, place: int) -> None:
        from components.serving import shards

        if self.jobs.cancelled(self.job.id):
            raise shards.StoppedError
        free = shutil.disk_usage(self.jobs.folder).free
        if free < SPARE:
            raise FailedError(
                f"The disk of {self.jobs.folder} has {free / 2**30:.1f} GiB left, which are kept for other work; "
                "free some, such as by genloom jobs prune, and order the job again."
            )
        if self.loaded is None:
            self.loaded = shards.open_job(self.job, self.settings)
        shards.write_shard(self.loaded, self.job, place, self.jobs.data(self.job), self._unwanted)

    def _unwanted(self) -> bool:
        """Whether somebody cancelled the job; raises `WithdrawnError` if its version may make nothing more."""
        from components.promotion import revocation

        revocation.check(self.settings, self.job.product, self.job.version)
        return self.jobs.cancelled(self.job.id)
