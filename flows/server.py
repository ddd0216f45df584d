"""The Prefect server that flows report to: the one `PREFECT_API_URL` names, or one of our own while we work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from components.errors import FailedError, UserError
from components.settings import Settings

PATIENCE = 120.0
"""Seconds in which a server must answer; a busy laptop needs a third of it."""


class PrefectServer:
    """A Prefect server on loopback, its SQLite file in `home` (by default `GENLOOM_HOME`); ends with this process."""

    def __init__(self, settings: Settings, home: Path | None = None, port: int | None = None) -> None:
        """Start it without waiting, so that other things can start beside it; by default at any free port."""
        home = home or settings.home / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.log = home / "server.log"
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--no-ui"],
                env={
                    **os.environ,
                    "PREFECT_HOME": str(home),
                    "PREFECT_API_URL": self.url,
                    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent,
                start_new_session=True,  # Ctrl-C is ours: the flow still reports how it ended
            )

    def wait(self) -> str:
        """The server's API URL once it answers; raises `FailedError` if it does not come up."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends and self.process.poll() is None:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", timeout=2).is_success and self._listens():
                    return self.url
            time.sleep(0.1)
        self.stop()
        raise FailedError(f"Prefect's server did not start; its log is {self.log}.")

    def _listens(self) -> bool:
        """Whether it is this server that answers, and not another that took the port while this one started."""
        with suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            for one in (process, *process.children(recursive=True)):
                sockets = one.net_connections("tcp")
                if any(
                    found.laddr.port == self.port and found.status == psutil.CONN_LISTEN for found in sockets
                ):
                    return True
        return False

    def stop(self) -> None:
        """End the server and wait until it is gone."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux to send this child a signal when its parent dies, even by kill -9; other systems have no such call."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, number)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def prefect_api(settings: Settings, started: PrefectServer | None = None) -> Iterator[None]:
    """Flows called inside report to `PREFECT_API_URL` if it is set, else to `started` or a server of our own."""
    home = settings.home / "prefect"
    os.environ.setdefault("PREFECT_HOME", str(home))
    if named := os.environ.get("PREFECT_API_URL"):
        knock(named)
        yield
        return
    server = started or PrefectServer(settings)
    try:
        url = server.wait()
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

        with temporary_settings({PREFECT_API_URL: url, PREFECT_HOME: Path(home)}):
            try:
                yield
            finally:
                flush()
    finally:
        server.stop()


def knock(url: str) -> None:
    """Raise `UserError` unless a Prefect server answers at `url`."""
    from prefect.client.orchestration import get_client

    try:  # by its own client, which takes the keys and certificates that the environment names
        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
    except (RuntimeError, ValueError) as refused:  # it looks at the address before
        error = refused
    if error is not None:
        raise UserError(
            f"No Prefect server answers at PREFECT_API_URL={url} ({error}); start it, or correct or unset "
            "PREFECT_API_URL."
        ) from error


def flush() -> None:
    """Send what the flows logged until now to their server."""
    import logging

    from prefect.logging.handlers import APILogHandler

    for name in ("prefect.flow_runs", "prefect.task_runs"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, APILogHandler):
                handler.flush()
