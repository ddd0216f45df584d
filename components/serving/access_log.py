"""The access log: a line of every request, whoever asked, whatever came; never of what was asked, nor of an answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.types import Scope

from components.serving.haproxy import CLIENT
from components.serving.lines import Days, Gathered, line, moment
from components.serving.routes.paths import header_of, route_of
from components.settings import LOOPBACK, Settings

LONGEST = 256
"""Characters of a path and of a request's name; a client may send longer ones."""


class AccessLog:
    """Keeps a line of each request in `access`/DAY.jsonl of the shared folder."""

    def __init__(self, settings: Settings) -> None:
        self._lines = Gathered(Days(settings.shared / "access", settings.access_days))

    def add(self, scope: Scope, status: str, seconds: float, model: str, version: str) -> None:
        """Keep the line of a request that is over; what it is named and whose key it has stands in its state."""
        state: Mapping[str, Any] = scope.get("state", {})
        key = state.get("key")
        self._lines.add(
            line(
                {
                    "at": moment(time.time() - seconds),
                    "request": str(state.get("request", ""))[:LONGEST],
                    "client": _client(scope),
                    "key": None if key is None else key.id,
                    "method": scope["method"],
                    "path": route_of(scope)[:LONGEST],
                    "status": int(status),
                    "seconds": round(seconds, 6),
                    "model": f"{model}/{version}" if model else None,
                }
            )
        )

    def close(self) -> None:
        """Write what waits."""
        self._lines.flush()


def _client(scope: Scope) -> str | None:
    """The address that asks; HAProxy, which is on this machine, says for whom it does."""
    peer = scope.get("client")
    own = peer[0] if peer else None
    return (header_of(scope, CLIENT.encode()) or own) if own in LOOPBACK else own


def open_access_log(settings: Settings) -> AccessLog | None:
    """The access log, unless `GENLOOM_ACCESS_DAYS` is 0."""
    return AccessLog(settings) if settings.access_days else None
