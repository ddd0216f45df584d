"""The short way past Ray Serve: found in Ray's own objects, counted there, and left where it does not fit."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from ray.serve._private.http_util import _apply_middlewares
from ray.serve._private.replica import Replica, ReplicaMetricsManager
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from components.serving.routes.naming import DIRECT, RequestName
from components.serving.shortcut import Shortcut, past_ray


class Counted(Replica):
    """Ray Serve's replica without what it runs; of its way only what came it is kept."""

    def __init__(self, prefix: str | None, threaded: bool = False) -> None:
        self._route_prefix = prefix
        self._user_callable_wrapper = SimpleNamespace(_run_user_code_in_separate_thread=threaded)
        self._metrics_manager = manager = object.__new__(ReplicaMetricsManager)
        manager._num_ongoing_requests, manager._ingress = 0, True
        manager._ingress_metrics, manager._cached_metrics_enabled = {}, True
        self._reserved_slots: set[str] = set()
        self.came: list[str] = []

    async def _direct_ingress_asgi(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.came.append(scope["path"])


def server_of(replica: Counted) -> ASGIApp:
    """The application with which Ray Serve begins a replica's server, as uvicorn has it."""
    config = uvicorn.Config(_apply_middlewares(replica._direct_ingress_asgi, []), log_config=None)
    config.load()
    return config.loaded_app


class Own(Starlette):
    """An application that is only its front."""

    def __init__(self, front: ASGIApp) -> None:
        super().__init__()
        self.middleware_stack = front


def asked(app: ASGIApp, path: str, kind: str = "http") -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "method": "POST", "path": path, "headers": [], "root_path": "", "client": None}
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize(("prefix", "root"), [("/", ""), ("/words", "/words")])
def test_a_request_goes_past_ray_which_counts_it(prefix: str, root: str) -> None:
    replica, seen = Counted(prefix), list[tuple[str, int, Any]]()

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["root_path"], replica.get_num_ongoing_requests(), scope["state"][DIRECT]))

    asked(past_ray(Own(own))(server_of(replica)), f"{root}/v1/models")
    assert seen == [(root, 1, True)]
    assert replica.came == []
    assert replica.get_num_ongoing_requests() == 0


def test_a_request_that_fails_is_counted_out() -> None:
    replica = Counted("/")

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asked(past_ray(Own(own))(server_of(replica)), "/v1/models")
    assert replica.get_num_ongoing_requests() == 0


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("this is Ray Serve's")


@pytest.mark.parametrize(
    ("path", "kind"), [("/-/healthz", "http"), ("/elsewhere", "http"), ("/words/v1", "websocket")]
)
def test_what_is_rays_goes_to_ray(path: str, kind: str) -> None:
    replica = Counted("/words")
    asked(past_ray(Own(nobody))(server_of(replica)), path, kind)
    assert replica.came == [path]


def test_where_the_application_has_a_loop_of_its_own_there_is_no_short_way() -> None:
    for replica in (Counted("/", threaded=True), Counted(None)):
        app = server_of(replica)
        assert past_ray(Own(nobody))(app) is app


def test_a_replica_that_counts_in_another_way_is_left_alone() -> None:
    replica = Counted("/")
    replica._metrics_manager.inc_num_ongoing_requests = lambda _: None  # type: ignore[method-assign]
    app = server_of(replica)
    assert past_ray(Own(nobody))(app) is app
    del replica._metrics_manager._num_ongoing_requests
    assert past_ray(Own(nobody))(app) is app


def test_what_was_found_is_kept_for_the_next_connection() -> None:
    over, app = past_ray(Own(nobody)), server_of(Counted("/"))
    assert over(app) is over(app)


def test_another_ray_serve_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert not isinstance(past_ray(Own(nobody))(RequestName(nobody)), Shortcut)
    assert "requests take the long way" in caplog.text
