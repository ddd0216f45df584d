"""Asking a running server, over HTTP."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from components.errors import FailedError, UserError


@dataclass(frozen=True)
class Answer:
    """Files that were drawn, by which version, and the seed of the first; the next ones count up."""

    files: list[bytes]
    version: int
    seed: int


def models(url: str) -> list[dict[str, Any]]:
    """The models that the server lists; nothing if it does not answer or serves none yet."""
    try:
        reply = httpx.get(f"{url}/v1/models", timeout=10)
        listed: list[dict[str, Any]] = reply.json()["data"] if reply.status_code == 200 else []
    except (httpx.HTTPError, ValueError, KeyError):
        return []
    return listed


def serves(url: str, product: str) -> int | None:
    """The version of `product` that the server serves, or None."""
    return next((int(model["version"]) for model in models(url) if model["id"] == product), None)


def ask(url: str, body: Mapping[str, Any]) -> Answer:
    """The pictures of one request; `UserError` for what the server refuses, `FailedError` if it fails."""
    try:
        reply = httpx.post(f"{url}/v1/images/generations", json=dict(body), timeout=300)
    except httpx.HTTPError as error:
        raise FailedError(f"The server at {url} does not answer ({error}); look at its log.") from error
    if reply.status_code != 200:
        raise (UserError if reply.status_code < 500 else FailedError)(_message(reply))
    files = [b64decode(item["b64_json"]) for item in reply.json()["data"]]
    return Answer(files, int(reply.headers["x-genloom-version"]), int(reply.headers["x-genloom-seed"]))


def _message(reply: httpx.Response) -> str:
    try:
        return str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {reply.status_code}: {reply.text[:200]}"
