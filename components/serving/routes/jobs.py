"""`/v1/jobs`: long work that is ordered, looked at and cancelled; others run it (components/serving/bulk.py)."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from components.errors import UserError
from components.serving.catalog import SEEDS, Catalog
from components.serving.jobs import OVER, Job, JobRequest, Jobs, State, UnknownJobError, new_id, rows_of
from components.serving.keys import Key
from components.serving.making import check_whole
from components.serving.routes.answers import JobList, JobObject, also
from components.serving.routes.description import json_body
from components.serving.routes.forms import loads, validated
from components.serving.routes.models import find
from components.serving.shards import fitting

log = logging.getLogger(__name__)
PAGE = 20
BESIDE = ("model", "n", "seed")
"""What a job says itself, and its `request` does not."""


def router(catalog: Catalog, jobs: Jobs) -> APIRouter:
    """The routes of `jobs`, which are ordered of the models in `catalog`."""
    routes = APIRouter()

    @routes.post(
        "/v1/jobs",
        status_code=202,
        response_model=None,
        responses=also(JobObject, 202),
        openapi_extra=json_body(JobRequest),
    )
    async def submit(request: Request) -> JSONResponse:
        """Order `n` rows; row i has the seed of the job + i."""
        content, sent = await request.body(), request.headers.get("content-type", "")
        job = await asyncio.to_thread(_ordered, catalog, content, sent, _key(request))
        await asyncio.to_thread(jobs.create, job)
        asyncio.get_running_loop().run_in_executor(None, _wake, jobs)
        return JSONResponse(described(jobs, job, State()), 202)

    @routes.get("/v1/jobs", response_model=None, responses=also(JobList, 200))
    async def show_all(
        request: Request, limit: Annotated[int, Query(ge=1, le=100)] = PAGE, after: str | None = None
    ) -> dict[str, Any]:
        """The jobs that the key may see, the newest first; `after` is the last one of the page before."""
        return await asyncio.to_thread(_page, jobs, _owner(request), limit, after)

    @routes.get("/v1/jobs/{name}", response_model=None, responses=also(JobObject, 200))
    async def show(request: Request, name: str) -> dict[str, Any]:
        """How far a job is."""
        job, state = await asyncio.to_thread(_seen, jobs, name, _owner(request))
        return {**described(jobs, job, state), "request": _asked(job)}

    @routes.delete("/v1/jobs/{name}", response_model=None, responses=also(JobObject, 200))
    @routes.post("/v1/jobs/{name}/cancel", response_model=None, responses=also(JobObject, 200))
    async def cancel(request: Request, name: str) -> dict[str, Any]:
        """End a job; its finished shards stay."""
        await asyncio.to_thread(_seen, jobs, name, _owner(request))
        return described(jobs, *await asyncio.to_thread(jobs.cancel, name))

    return routes


def described(jobs: Jobs, job: Job, state: State) -> dict[str, Any]:
    """A job as the routes show it."""
    left = (job.n - state.done) / state.rate if state.rate and state.status not in OVER else None
    return {
        "id": job.id,
        "object": "job",
        "created": int(job.created),
        "model": job.product,
        "version": job.version,
        "status": state.status,
        "n": job.n,
        "done": state.done,
        "rate": state.rate,
        "seconds_left": None if left is None else round(left, 1),
        "seed": job.seed,
        "media_type": job.media_type,
        "path": str(jobs.data(job)),
        "started": None if state.started is None else int(state.started),
        "finished": None if state.finished is None else int(state.finished),
        "error": state.error,
    }


def _ordered(catalog: Catalog, content: bytes, sent: str, key: Key | None) -> Job:
    """The job that a body asks for, tried on the model that serves now. Raises `UserError`."""
    asked = validated(loads(content, sent), JobRequest)
    beside = next((name for name in BESIDE if name in asked.request), None)
    if beside is not None:
        raise UserError(f"“{beside}” stands in “request”; put it beside “request”.")
    loaded = find(catalog, asked.model)
    modality = loaded.model.modality
    kind = modality.asked(loaded.model.shape)
    body = validated({**asked.request, "model": loaded.served.product, "n": 1}, kind, under="request")
    check_whole(body)
    if modality.selects(body):
        raise UserError(
            "A job keeps every row that it draws; leave “valid_only” and “contains” out, and choose after."
        )
    if modality.answers(body) != 1:
        raise UserError(
            "The “request” of a job has one prompt, picture or class, of which “n” answers are made."
        )
    return Job(
        id=new_id(),
        created=time.time(),
        key=None if key is None else key.id,
        product=loaded.served.product,
        version=loaded.served.version,
        digest=loaded.model.digest,
        artifact=loaded.served.folder,
        media_type=modality.media(body),
        n=asked.n,
        seed=secrets.randbelow(SEEDS) if asked.seed is None else asked.seed,
        request={**asked.request, "model": loaded.served.product},
        rows=rows_of(asked.n),
        at_once=fitting(loaded, body, asked.n),
        workers=asked.workers,
        terms=loaded.served.terms,
    )


def _wake(jobs: Jobs) -> None:
    try:
        jobs.wake()
    except Exception:  # the job waits; it is looked at again with the next one, or when a replica starts
        log.exception("nobody runs the jobs now")


def _key(request: Request) -> Key | None:
    """The key that asks; None without one, on loopback."""
    key: Key | None = getattr(request.state, "key", None)
    return key


def _owner(request: Request) -> str | None:
    """Whose jobs are seen: those of a key; None for all, by an operator's key or on loopback without one."""
    key = _key(request)
    return None if key is None or "operate" in key.scopes else key.id


def _seen(jobs: Jobs, name: str, owner: str | None) -> tuple[Job, State]:
    """A job, if `owner` may see it. Raises `UnknownJobError`."""
    job, state = jobs.get(name)
    if owner is not None and job.key != owner:
        raise UnknownJobError(f"There is no job {name}; GET /v1/jobs lists those there are.")
    return job, state


def _page(jobs: Jobs, owner: str | None, limit: int, after: str | None) -> dict[str, Any]:
    """OpenAI's list object."""
    page: list[dict[str, Any]] = []
    more = False
    for name in jobs.ids():
        if after is not None and name >= after:
            continue
        try:
            job, state = jobs.get(name)
        except UnknownJobError:  # pruned meanwhile
            continue
        if owner is not None and job.key != owner:
            continue
        if len(page) == limit:
            more = True
            break
        page.append(described(jobs, job, state))
    return {"object": "list", "data": page, "has_more": more}


def _asked(job: Job) -> Mapping[str, Any]:
    """The fields of the request, without the files that it may hold."""
    return {name: value for name, value in job.request.items() if name not in ("image", "mask", "model")}
