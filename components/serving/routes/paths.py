"""What stands in the head of a request.

A path may be under a prefix: an application at /words is asked at /words/v1/models, and its route is /v1/models.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope


def route_of(scope: Scope) -> str:
    """The path of a request below the prefix of its application, as the routes are written."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and f"{path}/".startswith(f"{prefix}/") else path


def header_of(scope: Scope, name: bytes) -> str | None:
    """The first header of a request with that name in small letters; every middleware asks, so nothing is built."""
    return value_of(scope["headers"], name)


def value_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The first value of that name in small letters."""
    for own, value in headers:
        if own == name:
            return str(value, "latin-1")
    return None
