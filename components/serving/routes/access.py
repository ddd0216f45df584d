"""Who may ask: keys, their scopes, and how much each may ask for; refused before a body is read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from components.errors import UserError
from components.serving.keys import Key, Keyring
from components.serving.routes.errors import answer
from components.serving.routes.paths import header_of, route_of

Need = Literal["nothing", "any", "generate", "operate"]
OPEN = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
ASSETS = "/static-offline-docs/"
"""The scripts of `/docs`, which a browser asks for without a key."""
JOB = "/v1/jobs/"
OPERATOR = "/metrics"
SECONDS = 60.0


@dataclass
class Bucket:
    """A token bucket: `rate` requests a minute, at most that many at a stroke."""

    rate: int
    left: float
    at: float

    def take(self, now: float) -> float:
        """Take one; 0, or the seconds after which there will be one."""
        self.left = min(float(self.rate), self.left + (now - self.at) * self.rate / SECONDS)
        self.at = now
        if self.left >= 1.0:
            self.left -= 1.0
            return 0.0
        return (1.0 - self.left) * SECONDS / self.rate


@dataclass
class Access:
    """The keys of a server and what each has used up in this replica.

    `required` says that nobody is let in without one; a server on loopback lets its own machine in, but a key
    that is given must be a good one, unless there are none at all.
    """

    ring: Keyring
    required: bool
    buckets: dict[str, Bucket] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)

    def enter(self, path: str, method: str, secret: str | None) -> Key | JSONResponse | None:
        """The key with which to go on (None without one), or the refusal."""
        need = needed(path, method)
        if need == "nothing":
            return None
        try:
            key = self.ring.holder(secret) if secret is not None else None
            known = self.required or (secret is not None and bool(self.ring.keys()))
        except UserError:
            return answer(
                503, "The server cannot read its keys; its operator must mend that.", "keys_unreadable"
            )
        if key is None:
            return _unknown(secret) if known else None
        if need != "any" and need not in key.scopes:
            scopes = ", ".join(key.scopes)
            message = f"This needs a key with the scope {need}, and “{key.name}” has {scopes}; ask with another key."
            return answer(403, message, "insufficient_scope")
        return self._within_limits(key) or key

    def _within_limits(self, key: Key) -> JSONResponse | None:
        if key.concurrency is not None and self.running.get(key.id, 0) >= key.concurrency:
            message = f"The key “{key.name}” has {key.concurrency} requests at once and no more; ask again in a second."
            return answer(429, message, "concurrency_limit_exceeded", headers={"retry-after": "1"})
        if key.rate is None:
            return None
        now = time.monotonic()
        bucket = self.buckets.get(key.id)
        if bucket is None or bucket.rate != key.rate:
            bucket = self.buckets[key.id] = Bucket(key.rate, float(key.rate), now)
        wait = bucket.take(now)
        if not wait:
            return None
        seconds = str(max(1, round(wait + 0.5)))
        message = f"The key “{key.name}” has {key.rate} requests a minute; ask again in {seconds} s."
        return answer(429, message, "rate_limit_exceeded", headers={"retry-after": seconds})


class Doorkeeper:
    """The middleware that lets requests in by `access` and counts those of a key that are under way."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        found = self.access.enter(
            route_of(scope), scope["method"], secret_of(header_of(scope, b"authorization"))
        )
        if isinstance(found, JSONResponse):
            await found(scope, receive, send)
            return
        running = self.access.running
        if found is not None:
            scope.setdefault("state", {})["key"] = found
            running[found.id] = running.get(found.id, 0) + 1
        try:
            await self.app(scope, receive, send)
        finally:
            if found is not None:
                running[found.id] -= 1


def needed(path: str, method: str) -> Need:
    """What a request must show."""
    if path in OPEN or path.startswith(ASSETS):
        return "nothing"
    if path.startswith(OPERATOR):
        return "operate"
    if path.startswith(JOB):
        return "any"  # who may see a job may end it; the routes know whose it is
    return "any" if method in ("GET", "HEAD", "OPTIONS") else "generate"


def secret_of(sent: str | None) -> str | None:
    """The key in a header `authorization`, as OpenAI's clients send it; None without one."""
    kind, _, secret = (sent or "").partition(" ")
    return secret.strip() if kind.lower() == "bearer" else None


def _unknown(secret: str | None) -> JSONResponse:
    headers = {"www-authenticate": "Bearer"}
    if secret is None:
        message = "This server wants an API key; send it in the header authorization: Bearer KEY."
        return answer(401, message, "missing_api_key", headers=headers)
    message = "This API key is unknown or revoked; ask the operator for another one."
    return answer(401, message, "invalid_api_key", headers=headers)
