"""What tests ask a server beside their requests, how a client leaves, and a small server of models that are loaded."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvicorn

from components.serving.catalog import Catalog, Loaded
from components.serving.routes.application import create_app
from components.serving.server import Server
from tests.until import until


def waiting(url: str, model: str) -> int:
    """Rows that `model` has no place for yet."""
    models = httpx.get(f"{url}/health", timeout=30).json()["models"]
    return int(next(one["waiting"] for one in models if one["id"] == model))


def steps(url: str, model: str) -> int:
    """Steps that `model` has computed since it began."""
    told = httpx.get(f"{url}/metrics", timeout=30).text
    return int(sum(map(float, re.findall(rf'genloom_engine_steps_total{{model="{model}".*}} (\S+)', told))))


def hang_up(url: str, body: dict[str, Any], when: Callable[[], Any]) -> None:
    """Post `body` to `url` and close the connection as soon as `when` holds, whatever was answered."""
    place = httpx.URL(url)
    connection = http.client.HTTPConnection(place.host, place.port)
    connection.request("POST", place.path, json.dumps(body), {"content-type": "application/json"})
    until(when)
    connection.close()


@contextmanager
def a_server(project: Path, loaded: Mapping[str, Loaded]) -> Iterator[str]:
    """A server in a thread of this process that the commands in `project` take for theirs."""
    # without a log_config of its own: setting that up closes all handlers there are, and absl's the stream of the tests
    server = uvicorn.Server(uvicorn.Config(create_app(Catalog(loaded)), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started or not thread.is_alive())
    assert server.started
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    process = psutil.Process()
    record = project / ".genloom" / "serve" / "server.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(asdict(Server(url, process.pid, process.create_time()))))
    try:
        yield url
    finally:
        server.should_exit = True
        thread.join()
