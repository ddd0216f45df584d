"""What tests ask a real server beside their requests, and how a client leaves."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from typing import Any

import httpx

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
