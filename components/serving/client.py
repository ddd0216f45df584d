"""Asking a running server, over HTTP."""

from __future__ import annotations

import json
import os
import ssl
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx

from components.errors import FailedError, UserError


@dataclass(frozen=True)
class Answer:
    """Files that were drawn, by which version, with the seed of each and its class, if the model has classes.

    `withheld` has the seeds whose files the product's content filter did not let out, and why.
    """

    files: list[bytes]
    version: int
    seeds: list[int]
    labels: list[str | None]
    withheld: dict[int, str] = field(default_factory=dict)


class WithheldError(UserError):
    """The product's content filter let nothing of an answer out."""


Listed: TypeAlias = dict[str, Any]
"""A model as `/v1/models` lists it."""
PATIENCE = 300.0
"""Seconds that an answer may take."""


def _headers() -> dict[str, str]:
    """The key of `GENLOOM_KEY`, for a server that wants one."""
    key = os.environ.get("GENLOOM_KEY", "")
    return {"authorization": f"Bearer {key}"} if key else {}


def _trust(url: str) -> ssl.SSLContext | bool:
    """Whom to believe at `url`; what holds for https is said where it is needed only, as it takes milliseconds."""
    if not url.startswith("https:"):
        return True
    from components.project import find_root
    from components.serving import tls
    from components.settings import read_settings

    try:
        root = find_root()
    except UserError:
        root = Path.cwd()
    return tls.trust(read_settings(root))


def answers(url: str) -> bool:
    """Whether the proxy answers at all: without a model it says 503."""
    try:
        httpx.get(f"{url}/-/healthz", timeout=5, verify=_trust(url))
    except httpx.HTTPError:
        return False
    return True


def models(url: str, patience: float = 10.0) -> list[Listed]:
    """The models that the server lists; nothing if it does not answer or serves none yet."""
    try:
        reply = httpx.get(f"{url}/v1/models", headers=_headers(), timeout=patience, verify=_trust(url))
        listed: list[Listed] = reply.json()["data"] if reply.status_code == 200 else []
    except (httpx.HTTPError, ValueError, KeyError):
        return []
    return listed


def served(url: str, product: str, patience: float = 10.0) -> Listed | None:
    """`product` as the server lists it within `patience` seconds, or None."""
    return next((model for model in models(url, patience) if model["id"] == product), None)


def serves(url: str, product: str) -> int | None:
    """The version of `product` that the server serves, or None."""
    found = served(url, product)
    return None if found is None else int(found["version"])


def ask(url: str, route: str, body: Mapping[str, Any]) -> Answer:
    """The files of one request without those that are withheld.

    Raises `WithheldError` if all are, `UserError` for what else the server refuses, `FailedError` if it fails.
    """
    content, version = told(url, route, body)
    items = content["data"]
    coded = [item.get("b64_json", item.get("b64")) for item in items]
    withheld = {
        int(item["seed"]): str(item["withheld"])
        for item, file in zip(items, coded, strict=True)
        if file is None
    }
    data = [item for item in items if int(item["seed"]) not in withheld]
    files = [b64decode(file) for file in coded if file is not None]
    seeds, labels = [int(item["seed"]) for item in data], [item.get("label") for item in data]
    return Answer(files, version, seeds, labels, withheld)


def told(url: str, route: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The JSON that a route answers, and the version that made it. Raises as `ask` does."""
    reply = post(url, route, body)
    if _refusal(reply).get("code") == "content_policy_violation":
        raise WithheldError(_message(reply))
    return answer(reply), int(reply.headers["x-genloom-version"])


def post(url: str, route: str, body: Mapping[str, Any]) -> httpx.Response:
    """What the server replies; `FailedError` if it does not."""
    try:
        return httpx.post(
            f"{url}{route}", json=dict(body), headers=_headers(), timeout=PATIENCE, verify=_trust(url)
        )
    except httpx.HTTPError as error:
        raise _silent(url, error) from error


def file(url: str, route: str, body: Mapping[str, Any]) -> tuple[bytes, int]:
    """The file that a route answers, and the version that made it. Raises as `ask` does."""
    reply = post(url, route, body)
    if _refusal(reply).get("code") == "content_policy_violation":
        raise WithheldError(_message(reply))
    if reply.status_code != 200:
        answer(reply)
    return reply.content, int(reply.headers["x-genloom-version"])


def answer(reply: httpx.Response) -> dict[str, Any]:
    """The content of an answer; `UserError` for what the server refused, `FailedError` if it failed."""
    if reply.status_code not in (200, 202):
        raise (UserError if reply.status_code < 500 else FailedError)(_message(reply))
    return dict(reply.json())


@contextmanager
def stream(url: str, route: str, body: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
    """The events of a streamed answer as they come; leaving the context ends it. Raises as `answer` does."""
    try:
        with httpx.stream(
            "POST",
            f"{url}{route}",
            json=dict(body),
            headers=_headers(),
            timeout=PATIENCE,
            verify=_trust(url),
        ) as reply:
            if reply.status_code != 200:
                reply.read()
                answer(reply)
            yield _events(reply)
    except httpx.HTTPError as error:
        raise _silent(url, error) from error


def _events(reply: httpx.Response) -> Iterator[dict[str, Any]]:
    """Raises `FailedError` for an error event, and for a stream that ends before `[DONE]`."""
    for line in reply.iter_lines():
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        if line:
            event: dict[str, Any] = json.loads(data)
            if "error" in event:
                raise FailedError(str(event["error"]["message"]))
            yield event
    raise FailedError("The server ended the answer before it was whole; look at its log and ask again.")


def _silent(url: str, error: httpx.HTTPError) -> FailedError:
    return FailedError(f"The server at {url} does not answer ({error}); look at its log.")


def _message(reply: httpx.Response) -> str:
    said = _refusal(reply).get("message")
    return f"The server answered {reply.status_code}: {reply.text[:200]}" if said is None else str(said)


def _refusal(reply: httpx.Response) -> dict[str, Any]:
    """The error of an answer; nothing of one that is none, or says it otherwise."""
    if reply.status_code < 400:
        return {}
    try:
        return dict(reply.json()["error"])
    except (ValueError, KeyError, TypeError):
        return {}


def call(url: str, method: str, route: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The object that a route answers; `UserError` for what the server refused, `FailedError` if it failed."""
    try:
        reply = httpx.request(
            method, f"{url}{route}", json=body, headers=_headers(), timeout=PATIENCE, verify=_trust(url)
        )
    except httpx.HTTPError as error:
        raise _silent(url, error) from error
    return answer(reply)
