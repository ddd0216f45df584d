"""Asking a running server, over HTTP."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from components.errors import FailedError, UserError


@dataclass(frozen=True)
class Drawn:
    """Files that were drawn, by which version, and the seed of the first; the next ones count up."""

    files: list[bytes]
    version: int
    seed: int


def models(url: str) -> list[dict[str, Any]]:
    """The models that the server lists; nothing if it does not answer or serves none yet."""
    try:
        answer = httpx.get(f"{url}/v1/models", timeout=10)
        listed: list[dict[str, Any]] = answer.json()["data"] if answer.status_code == 200 else []
    except (httpx.HTTPError, ValueError, KeyError):
        return []
    return listed


def serves(url: str, product: str) -> int | None:
    """The version of `product` that the server serves, or None."""
    return next((int(model["version"]) for model in models(url) if model["id"] == product), None)


def draw(url: str, body: Mapping[str, Any]) -> Drawn:
    """The pictures of one request; `UserError` for what the server refuses, `FailedError` if it fails."""
    try:
        answer = httpx.post(f"{url}/v1/images/generations", json=dict(body), timeout=300)
    except httpx.HTTPError as error:
        raise FailedError(f"The server at {url} does not answer ({error}); look at its log.") from error
    if answer.status_code != 200:
        raise (UserError if answer.status_code < 500 else FailedError)(_message(answer))
    files = [b64decode(item["b64_json"]) for item in answer.json()["data"]]
    return Drawn(files, int(answer.headers["x-genloom-version"]), int(answer.headers["x-genloom-seed"]))


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"The server answered {answer.status_code}: {answer.text[:200]}"
