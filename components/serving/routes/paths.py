"""Paths under a prefix: an application at /words is asked at /words/v1/models, and its route is /v1/models."""

from __future__ import annotations

from starlette.types import Scope


def route_of(scope: Scope) -> str:
    """The path of a request below the prefix of its application, as the routes are written."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(prefix) :] if prefix and f"{path}/".startswith(f"{prefix}/") else path
