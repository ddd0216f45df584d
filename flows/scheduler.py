"""The process that a project's schedule lives in: a Prefect server and a runner; start it, find it, stop it.

`python -m flows.scheduler ROOT PORT` is that process. With `PREFECT_API_URL` that server is used, and only the
runner is started here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil
from filelock import FileLock, Timeout

from components import cluster, files
from components.errors import FailedError, UserError
from components.project import Project, open_project
from components.settings import Settings, quiet_environment, writable_home
from flows.server import PrefectServer, free_port, knock

PATIENCE = 150.0
"""Seconds that it may take to come up, on a busy machine."""
ENDING = 60.0
"""Seconds that it has to end, a training and the server included."""
USUAL = 4200
"""Prefect's own port, which is taken where it is free."""
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Scheduler:
    """A schedule that runs: its Prefect API, its process, and the process of its server (0: a server of others)."""

    url: str
    pid: int
    started: float
    server: int = 0
    server_started: float = 0.0


def find(settings: Settings) -> Scheduler | None:
    """The project's schedule if it runs."""
    left = _read(settings)
    return left if left is not None and cluster.alive(left.pid, left.started) else None


def url_of(settings: Settings) -> str | None:
    """The Prefect API that knows the project's schedules; None if none runs. Raises `UserError` if it is silent."""
    running = find(settings)
    return running.url if running is not None else named_server(settings)


def named_server(settings: Settings) -> str | None:
    """The API of `PREFECT_API_URL`, if it is set. Raises `UserError` if nobody answers there."""
    os.environ.setdefault("PREFECT_HOME", str(settings.home / "prefect"))
    if named := os.environ.get("PREFECT_API_URL"):
        knock(named)
    return named or None


def log_of(settings: Settings) -> Path:
    """Where a schedule in the background writes, and what it trains."""
    return folder_of(settings) / "schedule.log"


def choose_port(settings: Settings, asked: int | None) -> int:
    """The port of a Prefect server that is to be started: as asked, as before, or a free one; 0 if none is needed.

    Raises `UserError` if it is in use, and if `PREFECT_API_URL` names a server that does not answer.
    """
    from components.serving.server import check_port

    if named_server(settings):
        return 0
    clear(settings)
    port = asked or _kept(settings)
    if port is None:
        with contextlib.suppress(UserError):
            check_port(HOST, USUAL)
            port = USUAL
    port = port or free_port()
    check_port(HOST, port)
    return port


def start_detached(project: Project, port: int | None = None) -> Scheduler:
    """Start it in the background and return when it executes schedules; one that runs already is returned.

    Raises `UserError` if the port is in use, `FailedError` if it does not come up.
    """
    settings = project.settings
    _make_folder(settings)
    with FileLock(folder_of(settings) / "start.lock"):
        running = find(settings)
        if running is not None:
            return running
        chosen = choose_port(settings, port)
        with log_of(settings).open("ab") as log:
            began = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.scheduler", str(project.root), str(chosen)],
                cwd=project.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            return _wait(settings, process, began)
        except BaseException:
            process.terminate()
            raise


def _wait(settings: Settings, process: subprocess.Popen[bytes], began: int) -> Scheduler:
    """What `process` becomes; `began` is where its part of the log begins."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        running = find(settings)
        if running is not None:
            return running
        time.sleep(0.1)
    log = log_of(settings)
    said = log.read_bytes()[began:].decode(errors="replace")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    raise FailedError(
        f"The schedule did not come up ({lines[-1] if lines else 'it said nothing'}); {log} says more."
    )


def stop(settings: Settings) -> Scheduler | None:
    """End the schedule, what it trains and its server, and return it when all are gone; None if none runs."""
    running = find(settings)
    if running is not None:
        process = psutil.Process(running.pid)
        process.terminate()
        try:
            process.wait(ENDING + 30)
        except psutil.TimeoutExpired:
            process.kill()
    clear(settings)
    return running


def clear(settings: Settings) -> None:
    """End the server that a schedule which was killed has left, and forget both."""
    left = _read(settings)
    if left is not None and cluster.alive(left.server, left.server_started):
        process = psutil.Process(left.server)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            try:
                process.wait(10)
            except psutil.TimeoutExpired:
                process.kill()
    _record(settings).unlink(missing_ok=True)


def host(project: Project, port: int, over: threading.Event) -> None:
    """Be the project's schedule until `over` is set. Raises `UserError` if another process is."""
    _make_folder(project.settings)
    try:
        lock = FileLock(folder_of(project.settings) / "lock", blocking=False)
        with lock, _server(project.settings, port) as server:
            _run(project, server, over)
    except Timeout as error:
        raise UserError(
            "The project's schedule runs already; see genloom schedule list, or end it with genloom schedule stop."
        ) from error


def _run(project: Project, server: Server, over: threading.Event) -> None:
    from flows.deployments import asking
    from flows.runner import Runner, log

    os.chdir(project.root)
    with asking(server.url, retries=0) as client:
        runner = Runner(project, folder_of(project.settings), client)
        try:
            runner.look()
        except httpx.HTTPError as error:
            runner.stop()
            raise FailedError(f"Prefect's server at {server.url} does not answer ({error}).") from error
        _write(project.settings, server)
        log(f"The schedule runs; Prefect's API is {server.url}.")

        def before() -> None:
            if server.revive():
                log("Prefect's server had ended and was started again.")
                _write(project.settings, server)

        try:
            runner.run(over, before)
        finally:
            runner.stop()
            _record(project.settings).unlink(missing_ok=True)
            log("The schedule has ended.")


class Server:
    """The Prefect server that is used: `own`, or one that somebody else runs at `url`."""

    def __init__(self, settings: Settings, port: int, url: str | None) -> None:
        self.settings, self.port, self.named = settings, port, url
        self.own = None if url else PrefectServer(settings, folder_of(settings), port)
        self.url = self.own.wait() if self.own is not None else url or ""

    def revive(self) -> bool:
        """Start our own again if it has ended; whether that was so."""
        if self.own is None or self.own.process.poll() is None:
            return False
        self.own = PrefectServer(self.settings, folder_of(self.settings), self.port)
        self.own.wait()
        return True


@contextlib.contextmanager
def _server(settings: Settings, port: int) -> Iterator[Server]:
    """The server of `PREFECT_API_URL`, or one of our own at `port`, which is kept for the next time."""
    named = named_server(settings)
    server = Server(settings, port, named)
    try:
        if not named:
            files.write(folder_of(settings) / "port", str(port))
        yield server
    finally:
        if server.own is not None:
            server.own.stop()


def _write(settings: Settings, server: Server) -> None:
    pid = 0 if server.own is None else server.own.process.pid
    record = Scheduler(
        url=server.url,
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        server=pid,
        server_started=psutil.Process(pid).create_time() if pid else 0.0,
    )
    files.write(_record(settings), json.dumps(asdict(record)))


def _read(settings: Settings) -> Scheduler | None:
    try:
        return Scheduler(**json.loads(_record(settings).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _kept(settings: Settings) -> int | None:
    try:
        return int((folder_of(settings) / "port").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _record(settings: Settings) -> Path:
    return folder_of(settings) / "scheduler.json"


def folder_of(settings: Settings) -> Path:
    """Where a schedule that runs, and what it leaves, is written down."""
    return settings.home / "schedule"


def _make_folder(settings: Settings) -> None:
    writable_home(settings)
    folder_of(settings).mkdir(exist_ok=True)


def until_signal() -> threading.Event:
    """What is set by SIGINT or SIGTERM from now on."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    return over


def main() -> None:
    """The process in the background: the project's folder and the port as arguments."""
    quiet_environment()
    try:
        host(open_project(Path(sys.argv[1])), int(sys.argv[2]), until_signal())
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
