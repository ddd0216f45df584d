"""What executes schedules: one training at a time, each in a process of its own that ends with this one."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import psutil

from components import cluster, files
from components.errors import UserError
from components.project import Project
from components.schedules import ScheduleRow, named, path_of, read_schedules
from flows import last
from flows.deployments import Deployments
from flows.server import die_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

EVERY = 2.0
"""Seconds between two looks at the file, at Prefect and at what is under way."""
ENDING = 30.0
"""Seconds in which a training that is stopped must have ended."""
GOES_ON = "the next time goes on from its last checkpoint"


@dataclass(frozen=True)
class Underway:
    """The flow run that is being executed; `pid` is 0 until it has a process."""

    flow_run: str
    pid: int = 0
    started: float = 0.0


class Runner:
    """Keeps the deployments of a project as its file says and executes what is due."""

    def __init__(self, project: Project, home: Path, client: SyncPrefectClient) -> None:
        self.root, self.record = project.root, home / "underway.json"
        self.deployments = Deployments(client, named(project.root, read_schedules(project.root)))
        self.client = client
        self.rows: Mapping[str, ScheduleRow] = {}
        self.content: bytes | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.mute = False

    def run(self, over: threading.Event, before: Callable[[], object]) -> None:
        """Go on until `over` is set, with `before` before each look; a server that does not answer is waited for."""
        from prefect.exceptions import ObjectNotFound

        while not over.is_set():
            try:
                before()
                self.look()
                self.mute = False
            except (httpx.HTTPError, ObjectNotFound) as error:  # or somebody deletes there what we look at
                if not self.mute:
                    log(f"Prefect's server does not answer as it should ({error}); trying again.")
                self.mute = True
            over.wait(EVERY)

    def look(self) -> None:
        """Apply the file where it has changed, see to what is under way, begin what is due."""
        if self.process is None:
            self.recover()
        self.follow_file()
        due = self.deployments.due(self.rows)
        if self.process is not None:
            self.attend(self.process)
        if self.process is None and due:
            self.begin(due[0].id)

    def follow_file(self) -> None:
        """Make the deployments what the file says; a file that is wrong changes nothing."""
        path = path_of(self.root)
        content = path.read_bytes() if path.is_file() else b""
        if content == self.content:
            return
        try:
            schedules = read_schedules(self.root)
        except UserError as error:
            log(f"{error} The schedules stay as they were.")
        else:
            self.deployments = Deployments(self.client, named(self.root, schedules))
            for sentence in self.deployments.apply(schedules.schedules):
                log(sentence)
            self.rows = schedules.schedules
        self.content = content

    def begin(self, flow_run: UUID) -> None:
        """Execute a flow run in a process of its own, unless somebody else has taken it."""
        from prefect.client.schemas.responses import SetStateStatus
        from prefect.states import Pending

        self._remember(Underway(str(flow_run)))
        if self.client.set_flow_run_state(flow_run, Pending()).status is not SetStateStatus.ACCEPT:
            self._forget()
            return
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.scheduled", str(flow_run)],
            cwd=self.root,
            env={**os.environ, "PREFECT_API_URL": str(self.client.api_url)},
            stdin=subprocess.DEVNULL,
            preexec_fn=functools.partial(die_with_parent, signal.SIGKILL),
            start_new_session=True,
        )
        log(f"The flow run {flow_run} begins.")
        started = psutil.Process(self.process.pid).create_time()
        self._remember(Underway(str(flow_run), self.process.pid, started))

    def attend(self, process: subprocess.Popen[bytes]) -> None:
        """See whether what is under way has ended, or is to end because somebody cancelled it in Prefect."""
        from prefect.states import Cancelled

        underway = self.underway()
        if underway is None:
            return
        if process.poll() is not None:
            self._settle(
                underway, f"Its process ended with {process.returncode} before it was done; {GOES_ON}."
            )
            log(f"The flow run {underway.flow_run} has ended.")
        elif (state := self._state(underway)) is not None and state.is_cancelling():
            self._end(process)
            message = f"Somebody cancelled it; {GOES_ON}."
            self.client.set_flow_run_state(UUID(underway.flow_run), Cancelled(message=message), force=True)
            self._close(underway)

    def stop(self) -> None:
        """End what is under way, and say so to Prefect if it can be told."""
        underway = self.underway()
        if self.process is None or underway is None:
            return
        self._end(self.process)
        try:
            self._settle(underway, f"The schedule was stopped while it was under way; {GOES_ON}.", anew=True)
        except httpx.HTTPError:
            log("Prefect's server does not answer; the next start tells it what was stopped.")

    def recover(self) -> None:
        """Say of a flow run whose runner was killed, or could not begin it, that it has crashed."""
        underway = self.underway()
        if underway is None:
            return
        if cluster.alive(underway.pid, underway.started):  # where no system ends it with its parent
            psutil.Process(underway.pid).kill()
        self._settle(underway, f"Its runner ended while it was under way; {GOES_ON}.")

    def underway(self) -> Underway | None:
        """What is executed here, or was when a runner was killed."""
        try:
            return Underway(**json.loads(self.record.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _settle(self, underway: Underway, message: str, anew: bool = False) -> None:
        """Give a flow run that has no last state one; with `anew`, also one whose process said how it was ended."""
        from prefect.states import Crashed

        state = self._state(underway)
        taken = None if state is None or state.is_scheduled() else state  # or else it is still due
        if taken is not None and (not taken.is_final() or (anew and taken.is_crashed())):
            self.client.set_flow_run_state(UUID(underway.flow_run), Crashed(message=message), force=True)
            log(message)
        self._close(underway)

    def _close(self, underway: Underway) -> None:
        """Forget a flow run that is over; what came of it is kept for those who ask when nothing runs."""
        names = {one.id: name for name, one in self.deployments.read().items()}
        run = self._flow_run(underway)
        if run is not None and run.deployment_id in names and run.state is not None and run.state.is_final():
            known = last.kept(self.record.parent)
            others = {name: known[name] for name in names.values() if name in known}
            last.keep(self.record.parent, {**others, names[run.deployment_id]: last.told(run)})
        self._forget()

    def _state(self, underway: Underway) -> State[Any] | None:
        """The state of a flow run; None if Prefect has lost it."""
        run = self._flow_run(underway)
        return None if run is None else run.state

    def _flow_run(self, underway: Underway) -> FlowRun | None:
        from prefect.exceptions import ObjectNotFound

        try:
            return self.client.read_flow_run(UUID(underway.flow_run))
        except ObjectNotFound:
            return None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _remember(self, underway: Underway) -> None:
        files.write(self.record, json.dumps(asdict(underway)))

    def _forget(self) -> None:
        self.record.unlink(missing_ok=True)
        self.process = None


def log(sentence: str) -> None:
    """A line of the schedule's own log."""
    print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {sentence}", flush=True)
