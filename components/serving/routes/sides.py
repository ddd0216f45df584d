"""Which version answers: the champion, or for a share of those who ask, always the same ones, its canary.

A canary that cannot answer is never noticed: the champion answers instead, as long as nothing was sent.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from fastapi import Request
from fastapi.responses import Response

from components.errors import FailedError
from components.serving.catalog import Catalog, Loaded
from components.serving.engine import QueueFullError
from components.serving.routes.errors import UnknownModelError, WithheldError
from components.serving.routes.models import find
from components.serving.routes.paths import value_of
from components.serving.trial import Trial

Ask: TypeAlias = Callable[[Loaded], Awaitable[Response]]
"""Asks one version; it may be called again with another as long as it has raised."""
NAMES = ("user", "safety_identifier", "prompt_cache_key")
"""The fields of a request that say for whom it is."""
SESSION = "x-genloom-session"
"""The header that keeps its sender at one version."""
PAUSE = 1.0
"""Seconds between two looks whether a canary that is waited for stands still."""


async def answered(
    catalog: Catalog, request: Request, body: Any, ask: Ask, modality: str, route: str | None = None
) -> Response:
    """The answer to `body`, by the version that is its turn. Raises what `find` and `ask` raise.

    One that is ready when its version is withdrawn is not sent: `WithdrawnError` is raised instead.
    """
    name, _, side = (body.model or "").partition("@")
    champion = find(catalog, name or None, modality, route)
    response = await _by_turns(catalog, champion, side, request, body, ask)
    catalog.check(champion.served.product, _number(response, b"x-genloom-version"))
    return response


async def _by_turns(
    catalog: Catalog, champion: Loaded, side: str, request: Request, body: Any, ask: Ask
) -> Response:
    """The answer of the champion, or of what is tried beside it."""
    trial = catalog.trials.get(champion.served.product)
    if trial is not None and trial.champion is not champion:
        trial = None  # the champion has just moved, which ends the trial
    pinned = _pinned(side, champion, trial) if side else None
    if trial is None:
        return await ask(champion)
    taken = trial.takes(key_of(request, body))
    if not trial.canary:
        return await _mirrored(trial, body, ask, taken)
    if trial.loaded.engine.healthy and (taken if pinned is None else pinned):
        return await _tried(trial, ask)
    return await ask(trial.usual)


def key_of(request: Request, body: Any) -> str:
    """For whom the request is: by itself, by its key, by its session, or else nobody for a second time."""
    named = next((value for name in NAMES if (value := getattr(body, name, None))), None)
    if named is not None:
        return f"name {named}"
    key = request.scope.get("state", {}).get("key")
    if key is not None:
        return f"key {key.id}"
    return f"session {request.headers.get(SESSION) or secrets.token_hex(8)}"


async def _tried(trial: Trial, ask: Ask) -> Response:
    """The canary's answer, or the champion's if there is none; what the filter withholds is an answer as well."""
    try:
        return await _unless_stuck(trial, ask(trial.asked))
    except QueueFullError:
        return await ask(trial.usual)
    except WithheldError:
        raise
    except Exception as error:
        fault = error
    response = await ask(trial.usual)  # what the champion raises is the request's own fault
    if not isinstance(fault, FailedError):  # an engine's failures are counted where they happen
        trial.fault(fault)
    return response


async def _unless_stuck(trial: Trial, asked: Awaitable[Response]) -> Response:
    """What was asked; raises `FailedError` if the engine stands still meanwhile."""
    work = asyncio.ensure_future(asked)
    try:
        while not (await asyncio.wait({work}, timeout=PAUSE))[0]:
            if trial.stuck:
                raise FailedError(f"The engine of {trial.loaded.name} stands still; ask again.")
        return work.result()
    finally:
        work.cancel()


async def _mirrored(trial: Trial, body: Any, ask: Ask, taken: bool) -> Response:
    """The champion's answer; the shadow is asked the same when that is ready, and nobody waits for it."""
    response = await ask(trial.usual)
    if taken:
        trial.mirror(body, _number(response, b"x-genloom-seed"))
    return response


def _number(response: Response, name: bytes) -> int:
    """What an answer says in its head; to ask for all its headers costs more than to look."""
    return int(value_of(response.raw_headers, name) or "")


def _pinned(side: str, champion: Loaded, trial: Trial | None) -> bool:
    """Whether the request asks for the canary by name; raises `UnknownModelError` for what does not answer."""
    if side in ("champion", str(champion.served.version)):
        return False
    if trial is not None and trial.canary and side in ("canary", str(trial.loaded.served.version)):
        return True
    there = [champion.name] + ([trial.loaded.name] if trial is not None and trial.canary else [])
    product = champion.served.product
    raise UnknownModelError(
        f"The model “{product}” has no “{side}” that answers; there is {' and '.join(there)}: ask for "
        f"{product}, {product}@champion or a version's number."
    )
