"""`genloom jobs`: long work of the server, such as millions of pictures or texts as Parquet."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from components.errors import FailedError, UserError, shortened
from flows.commands.show import AsJson, facts, listing

Product = Annotated[str, typer.Argument(help="A product that is served.", show_default=False)]
Number = Annotated[int, typer.Option("-n", "--number", min=1, help="How many to generate.")]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**63 - 1, help="Number i gets the seed + i; drawn unless given.")
]
Request = Annotated[
    str, typer.Option("--request", help='What each is asked for, as JSON, such as \'{"label": "7"}\'.')
]
Workers = Annotated[int, typer.Option(min=1, help="Processes that generate.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show how it goes, and return when it is over.")]
Which = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]
Limit = Annotated[int, typer.Option(min=1, max=100, help="The newest so many.")]
Days = Annotated[int, typer.Option(min=0, max=36_500, help="Days since a job was over.")]
EVERY = 0.5
"""Seconds between two looks at a job."""


def attach(app: typer.Typer) -> None:
    """Add the noun to `app`."""
    jobs = typer.Typer(no_args_is_help=True, help="Long work: bulk generation into Parquet.")
    jobs.command("submit")(submit)
    jobs.command("list")(show_all)
    jobs.command("show")(show)
    jobs.command("cancel")(cancel)
    jobs.command("prune")(prune)
    app.add_typer(jobs, name="jobs")


def submit(
    product: Product,
    number: Number,
    seed: Seed = None,
    request: Request = "{}",
    workers: Workers = 1,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Have the server generate in the background; the shards are Parquet files in the job's folder."""
    url = _url(product)
    body = {"model": product, "n": number, "request": _fields(request), "workers": workers}
    job = _call(url, "POST", "/v1/jobs", body if seed is None else {**body, "seed": seed})
    if wait:
        job = _followed(url, job)
    if as_json:
        typer.echo(json.dumps(job, indent=2))
    elif wait:
        typer.echo(
            f"{job['done']:,} rows of {product}/{job['version']} with seed {job['seed']}: {job['path']}"
        )
    else:
        typer.echo(
            f"{job['id']} is queued; see genloom jobs show {job['id']}. Its shards go to {job['path']}."
        )


def show_all(limit: Limit = 20, as_json: AsJson = False) -> None:
    """List the jobs that the key may see, the newest first."""
    jobs = _call(_url(), "GET", f"/v1/jobs?limit={limit}")["data"]
    listing(
        jobs if as_json else [_line(job) for job in jobs],
        as_json,
        "There are no jobs yet; order one with genloom jobs submit PRODUCT -n NUMBER.",
    )


def show(which: Which, wait: Wait = False, as_json: AsJson = False) -> None:
    """Say how far a job is."""
    url = _url()
    job = _call(url, "GET", f"/v1/jobs/{_id(which)}")
    facts(_followed(url, job) if wait else job, as_json)


def cancel(which: Which, as_json: AsJson = False) -> None:
    """End a job; its finished shards stay."""
    job = _call(_url(), "POST", f"/v1/jobs/{_id(which)}/cancel")
    if as_json:
        typer.echo(json.dumps(job, indent=2))
    else:
        typer.echo(f"{which} is {job['status']}, with {job['done']:,} of {job['n']:,} rows in {job['path']}.")


def prune(days: Days = 30, as_json: AsJson = False) -> None:
    """Remove jobs that have been over for so long, with their shards; no server is needed."""
    from components.project import open_project
    from components.serving.jobs import Jobs

    gone = Jobs(open_project().settings.shared / "jobs").prune(time.time() - days * 86_400)
    if as_json:
        typer.echo(json.dumps({"removed": gone}, indent=2))
    else:
        typer.echo(f"Removed with their shards: {len(gone)}.")


def _id(which: str) -> str:
    """`which`, which is to stand in a URL. Raises `UserError` if it is no id of a job."""
    from components.serving.jobs import ID

    if not ID.fullmatch(which):
        raise UserError(f"There is no job “{shortened(which)}”; genloom jobs list shows them.")
    return which


def _followed(url: str, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it is over, with a bar until then. Raises `FailedError` if it was not done."""
    from components.serving.jobs import OVER
    from flows.progress import Bars

    with Bars() as bars:
        while job["status"] not in OVER:
            time.sleep(EVERY)
            job = _call(url, "GET", f"/v1/jobs/{job['id']}")
            bars(f"{job['model']} ({job['status']})", job["done"], job["n"])
    if job["status"] == "failed":
        raise FailedError(f"{job['id']} failed: {job['error']}")
    if job["status"] == "cancelled":
        raise FailedError(f"{job['id']} was cancelled, with {job['done']:,} of {job['n']:,} rows.")
    return job


def _call(url: str, method: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    from components.serving import client

    return client.call(url, method, route, body)


def _url(product: str | None = None) -> str:
    """The application that serves `product`, or any, as all know of all jobs. Raises `UserError` if none runs."""
    from components.project import open_project
    from components.serving import server

    settings = open_project().settings
    found = None if product is None else server.url_of(settings, product)
    return found or server.url_of_any(settings)


def _fields(request: str) -> dict[str, Any]:
    try:
        fields = json.loads(request)
    except ValueError as error:
        raise UserError(f"--request is no JSON ({error}); write an object such as {{}}.") from error
    if not isinstance(fields, dict):
        raise UserError('--request must be a JSON object, such as {"label": "7"}.')
    return fields


def _line(job: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": job["id"],
        "model": f"{job['model']}/{job['version']}",
        "status": job["status"],
        "done": f"{job['done']:,}/{job['n']:,}",
        "rate": None if job["rate"] is None else f"{job['rate']:,.0f}/s",
        "ordered": time.strftime("%Y-%m-%d %H:%M", time.localtime(job["created"])),
    }
