"""The project's server: one process that owns a local Ray and its HTTP proxy; start it, find it, stop it.

`python -m components.serving.server` is that process. Models come and go by `deploy`, from any process of the
project; with `RAY_ADDRESS` there is no such process, and `deploy` goes to that cluster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import psutil
from filelock import FileLock

from components import cluster, files
from components.errors import FailedError, UserError
from components.serving import client, haproxy, tls
from components.settings import Settings, cluster_address, writable_home
from components.terms import USUAL, Terms

if TYPE_CHECKING:
    from components.promotion.version import Version

PATIENCE = 120.0
"""Seconds that a server may take to come up, on a busy machine."""
ENDING = 20.0
"""Seconds that the requests of a server which is stopped have to end."""


@dataclass(frozen=True)
class Server:
    """A running server; `started` is its process's start in seconds since the epoch."""

    url: str
    pid: int
    started: float


def find(settings: Settings) -> Server | None:
    """The project's server if it is up."""
    try:
        server = Server(**json.loads(_record(settings).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return server if cluster.alive(server.pid, server.started) else None


def log_of(settings: Settings) -> Path:
    """Where a server in the background writes."""
    return settings.home / "serve" / "server.log"


def url_of(settings: Settings, product: str) -> str | None:
    """The URL of the application that serves `product` on the project's running server; None if no server runs."""
    server = find(settings)
    if server is None:
        return None
    from components.serving.applications import holder, remembered

    found = holder(remembered(settings), product)
    return server.url if found is None else server.url + found.path.rstrip("/")


def url_of_any(settings: Settings) -> str:
    """The URL of the project's application whose path is the shortest; raises `UserError` if no server runs."""
    from components.serving.applications import remembered

    paths = [one.path for one in remembered(settings)]
    return url_to(settings) + min(paths, key=len, default="/").rstrip("/")


def check_port(host: str, port: int) -> None:
    """Raise `UserError` unless `host` and `port` can be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            cause = error.strerror or str(error)
            raise UserError(
                f"The port {port} on {host} cannot be used ({cause.lower()}); choose another one with --port."
            ) from error


def start_detached(settings: Settings, port: int | None = None, host: str | None = None) -> Server:
    """Start the server in the background, without a model, and return when its proxy answers.

    A server that runs already is returned, unless it listens elsewhere than asked. Raises `UserError` if the
    port is in use, `FailedError` if the server does not come up.
    """
    _folder(settings)
    with FileLock(settings.home / "serve" / "start.lock"):
        running = find(settings)
        if running is not None:
            return _as_asked(running, port, host)
        host, port = host or settings.host, port or settings.port
        check_port(host, port)
        tls.check(settings)
        with log_of(settings).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "components.serving.server", host, str(port)],
                env={**os.environ, "GENLOOM_SETTINGS": settings.model_dump_json()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            # A training that begins meanwhile waits for this Ray instead of starting a second one.
            cluster.announce(settings, process.pid)
            return _wait(settings, process)
        except BaseException:
            process.terminate()
            raise


def deploy(
    settings: Settings,
    product: str,
    version: Version,
    follows: bool = False,
    replicas: int | None = None,
    terms: Terms = USUAL,
    gpus: float | None = None,
) -> str:
    """Serve `version` of `product` beside the other products, without a gap, and return the URL to ask at.

    With `follows` the replicas go on to each new champion by themselves; `replicas` is how many the application
    has from now on, `gpus` how many each of them has, `terms` are those of the product. What is served so already is
    left as it is. Raises `UserError` if no server runs, if the applications are those of a file, and if there are
    fewer GPUs.
    """
    url = url_of(settings, product) or url_to(settings)
    serving = client.served(url, product)
    asked = (version.number, follows, terms.digest)
    same = serving is not None and (serving["version"], serving["follows"], serving["terms"]) == asked
    if same and replicas is None and gpus is None:
        return url
    from components.promotion.registry import Registry

    folder = Registry(settings).fetch(version)
    cluster.connect(settings)
    from components.serving import app
    from components.serving.catalog import Served

    _folder(settings)
    created = int(datetime.fromisoformat(version.created).timestamp())
    with FileLock(settings.home / "serve" / "deploy.lock"):
        if cluster_address():
            app.open_proxy(settings.host, settings.port, settings)
        others = [one for one in app.served() if one.product != product]
        versions = [*others, Served(product, version.number, folder, created, follows, terms)]
        app.roll_out(versions, settings, replicas, gpus)
    return url_to(settings)


def stop(settings: Settings) -> Server | None:
    """End the server and its Ray, and return what it was; None if none ran."""
    server = find(settings)
    if server is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(server.pid)
        process.terminate()
        try:
            process.wait(timeout=ENDING + 30)
        except psutil.TimeoutExpired:
            process.kill()
    _record(settings).unlink(missing_ok=True)
    return server


def withdraw(settings: Settings) -> None:
    """Serve nothing any more on the cluster of `RAY_ADDRESS`, which goes on."""
    cluster.connect(settings)
    from components.serving import app

    app.withdraw(settings)


@contextlib.contextmanager
def hosting(settings: Settings, host: str, port: int) -> Iterator[Server]:
    """Own Ray and the HTTP proxy in this process for the time of the block; other processes find them."""
    _folder(settings)
    check_port(host, port)
    tls.check(settings)
    fast = settings.proxy == "haproxy" and haproxy.available()
    with (
        haproxy.in_front(settings.home, host, port, tls.pair(settings)) if fast else contextlib.nullcontext(),
        _hosting(settings, host, port) as server,
    ):
        yield server


@contextlib.contextmanager
def _hosting(settings: Settings, host: str, port: int) -> Iterator[Server]:
    cluster.connect(settings, shared=True)
    from components.serving import app

    owner = cluster.find(settings)
    if owner is None or owner.pid != os.getpid():
        raise UserError("Another server of this project is just starting; see genloom serve --status.")
    try:
        tls.publish(settings)
        app.open_proxy(host, port, settings)
        app.withdraw(settings)  # forgets what a server that was killed left written down
        server = Server(_at(host, port, settings), os.getpid(), psutil.Process().create_time())
        files.write(_record(settings), json.dumps(asdict(server)))
        yield server
    finally:
        _record(settings).unlink(missing_ok=True)
        tls.withdraw(settings)
        if not cluster.ended():
            app.withdraw(settings, patience=ENDING)
        cluster.disconnect(settings)


def wait_for_signal() -> None:
    """Sleep until SIGINT or SIGTERM; raises `FailedError` if this process's Ray ends before."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    while not over.wait(timeout=2):
        if cluster.ended():
            raise FailedError(
                "Ray has ended under the server; see /tmp/ray/session_latest/logs, and serve again."
            )


def main() -> None:
    """The server process: host and port as arguments, the settings as JSON in GENLOOM_SETTINGS."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    asked = parser.parse_args()
    settings = Settings(**json.loads(os.environ.pop("GENLOOM_SETTINGS")))
    try:
        with hosting(settings, asked.host, asked.port) as server:
            print(f"serving at {server.url}", flush=True)
            wait_for_signal()
    except UserError as error:
        sys.exit(str(error))


def _wait(settings: Settings, process: subprocess.Popen[bytes]) -> Server:
    """The server that `process` becomes, once its proxy answers."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        server = find(settings)
        if server is not None and client.answers(server.url):
            return server
        time.sleep(0.1)
    log = log_of(settings)
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    raise FailedError(
        f"The server did not come up ({lines[-1] if lines else 'it said nothing'}); {log} says more."
    )


def _as_asked(server: Server, port: int | None, host: str | None) -> Server:
    place = httpx.URL(server.url)
    if (port or place.port) != place.port or (host or place.host) != place.host:
        raise UserError(
            f"The project's server runs already at {server.url}; stop it first with genloom serve --stop."
        )
    return server


def url_to(settings: Settings) -> str:
    """The server's URL, or that of the cluster of `RAY_ADDRESS`. Raises `UserError` if no server runs."""
    if cluster_address():
        return _at(settings.host, settings.port, settings)
    server = find(settings)
    if server is None:
        raise UserError("No server of this project runs; start one with genloom serve PRODUCT.")
    return server.url


def _at(host: str, port: int, settings: Settings) -> str:
    """The URL to ask at; a server that listens everywhere is asked on loopback."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'http' if settings.tls_cert is None else 'https'}://{reachable}:{port}"


def _record(settings: Settings) -> Path:
    return settings.home / "serve" / "server.json"


def _folder(settings: Settings) -> None:
    (writable_home(settings) / "serve").mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
