"""The short way from a replica's own port to its routes, past what Ray Serve does with each request.

Behind HAProxy a replica's server takes the requests itself, and hands them to Ray Serve, which names, times, logs and
counts each: that costs as much as a small model. The application names, times and logs what it answers; of the rest Ray
Serve needs the count of requests under way, by which replicas are added and a leaving one is emptied. It has no public
way to count, so this knows how Ray Serve 2.60 is built; where it is built otherwise, requests go Ray Serve's way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from components.serving.routes.naming import DIRECT

log = logging.getLogger(__name__)
PROBES = "/-/"
"""Where the paths begin at which HAProxy asks Ray Serve how the replica is."""
Over: TypeAlias = Callable[[ASGIApp], ASGIApp]
"""Puts an application before the one that a server was begun with."""


class Shortcut:
    """Answers by `own`, an application at the path `prefix`; what is not for it goes to `ray`, Ray Serve's own way.

    `count` is told 1 when a request has begun and −1 when it is over.
    """

    def __init__(self, ray: ASGIApp, own: Starlette, prefix: str, count: Callable[[int], None]) -> None:
        self.ray, self.own, self.count = ray, own, count
        self.front = own.middleware_stack or own  # before it FastAPI looks for telemetry, in the environment
        self.prefix = "" if prefix == "/" else prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http" or not self._is_own(scope["path"]):
            await self.ray(scope, receive, send)
            return
        scope["root_path"], scope["app"] = self.prefix, self.own
        scope.setdefault("state", {})[DIRECT] = True
        self.count(1)
        try:
            await self.front(scope, receive, send)
        except Exception:  # the server, which ends the request, is told to be silent about it
            log.exception("a request to %s failed", scope["path"])
            raise
        finally:
            self.count(-1)

    def _is_own(self, path: str) -> bool:
        return path.startswith(self.prefix) and not path.startswith(PROBES)


def past_ray(own: Starlette) -> Over:
    """What puts `own` before the application with which Ray Serve begins a replica's server."""
    known: dict[int, ASGIApp] = {}

    def over(ray: ASGIApp) -> ASGIApp:
        if id(ray) not in known:  # a server asks for every connection
            found = _found(ray)
            known[id(ray)] = ray if found is None else Shortcut(ray, own, *found)
        return known[id(ray)]

    return over


def _found(ray: Any) -> tuple[str, Callable[[int], None]] | None:
    """The path at which the replica behind `ray` serves, and how it counts; None where it is not as it is known."""
    try:
        # uvicorn's and Ray Serve's own middleware are before the replica's method
        replica = ray.app._app.__self__
        prefix, wrapper = replica._route_prefix, replica._user_callable_wrapper
        threaded = wrapper._run_user_code_in_separate_thread
        count = _counting(replica)
    except (AttributeError, ImportError, TypeError, ValueError):
        log.warning("this Ray Serve is another one than 2.60: requests take the long way", exc_info=True)
        return None
    if threaded or not isinstance(prefix, str):  # the application belongs to another thread's loop
        return None
    return prefix, count


def _counting(replica: Any) -> Callable[[int], None]:
    """What tells a replica that a request has begun, or is over; raises if it does not count so."""
    from ray.serve._private.common import RequestMetadata, RequestProtocol

    about = RequestMetadata(
        request_id="", internal_request_id="", _request_protocol=RequestProtocol.HTTP, is_direct_ingress=True
    )
    metrics = replica._metrics_manager
    begin, end = metrics.inc_num_ongoing_requests, metrics.dec_num_ongoing_requests
    before = metrics.get_num_ongoing_requests()
    begin(about)
    between = metrics.get_num_ongoing_requests()
    end(about)
    if (between, metrics.get_num_ongoing_requests()) != (before + 1, before):
        raise ValueError("it counts in another way")
    return lambda step: begin(about) if step > 0 else end(about)
