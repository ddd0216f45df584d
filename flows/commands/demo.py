"""`genloom demo`: from real digits to a served model, with one command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from components.project import Project
    from flows.retrain import Outcome
    from flows.server import PrefectServer

PRODUCT = "digits"
RUNS = ("digits-vae", "digits-gan")


def attach(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("demo")(demonstrate)


def demonstrate(
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the endpoint; by default GENLOOM_PORT or 8000."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the picture goes.")] = Path(
        "out/demo.png"
    ),
) -> None:
    """Prepare digits, train a VAE and a GAN, promote the better, serve it, and ask it for a picture."""
    from components.project import open_project
    from components.serving import draw, server
    from components.settings import writable_home
    from flows.progress import say

    began = time.monotonic()
    project = open_project()
    writable_home(project.settings)
    output.parent.mkdir(parents=True, exist_ok=True)
    draw.check_target(output)
    for run in RUNS:
        project.run(run)
    before = server.find(project.settings)
    if before is None:
        server.check_port(project.settings.host, port or project.settings.port)
    say("starting   Ray, Ray Serve and Prefect, side by side")
    try:
        outcomes = _trained(project, port)
        url = _serve(project, outcomes)
        _draw(project, output)
    except BaseException:
        if before is None:  # the server was started for this alone
            server.stop(project.settings)
        raise
    _farewell(url, output, outcomes, time.monotonic() - began)


def _trained(project: Project, port: int | None) -> list[Outcome]:
    """Both runs, with Prefect beside the cluster of a server that starts meanwhile."""
    from components.serving import server
    from flows.server import PrefectServer

    prefect = None if "PREFECT_API_URL" in os.environ else PrefectServer(project.settings)
    try:
        with ThreadPoolExecutor(1) as pool:
            serving = pool.submit(server.start_detached, project.settings, port)
            return _retrain(project, prefect, serving.result)
    finally:
        if prefect is not None:
            prefect.stop()


def _retrain(project: Project, prefect: PrefectServer | None, ready: Callable[[], object]) -> list[Outcome]:
    """Both runs, one after the other, once the cluster is `ready` to train on."""
    from flows.progress import say
    from flows.server import prefect_api

    with prefect_api(project.settings, prefect):
        ready()
        from flows.retrain import retrain

        outcomes = []
        for run in RUNS:
            outcome = retrain(project.root, run)
            outcomes.append(outcome)
            for reason in outcome.reasons:
                say(f"gate       {reason}")
    return outcomes


def _serve(project: Project, outcomes: list[Outcome]) -> str:
    """Serve the champion; returns the URL. Raises `FailedError` with the gate's reasons if there is none."""
    from components.errors import FailedError
    from components.promotion.promote import champion
    from components.serving import server
    from flows.progress import say

    best = champion(project.settings, PRODUCT)
    if best is None:
        reasons = " ".join(reason for outcome in outcomes for reason in outcome.reasons)
        raise FailedError(f"The gate refused both models, so there is nothing to serve. {reasons}")
    url = server.deploy(project.settings, PRODUCT, best, follows=True, terms=project.terms(PRODUCT))
    say(f"serving    {PRODUCT}/{best.number} ({best.family}) at {url}")
    return url


def _draw(project: Project, output: Path) -> None:
    """Ask the endpoint over HTTP for 64 pictures and write them as one."""
    from components.serving import draw
    from components.serving.place import locate

    with locate(project.settings, PRODUCT, None, project.own_terms(PRODUCT)) as place:
        draw.write(draw.check_target(output), draw.draw(place, 64, 0, {}))


def _farewell(url: str, output: Path, outcomes: list[Outcome], seconds: float) -> None:
    champion = outcomes[-1].champion
    print(f"""
Done in {seconds:.0f} s. {PRODUCT}/{champion} is champion.

  picture   {output}
  endpoint  {url}/v1/images/generations

Next:
  curl -s {url}/v1/images/generations -H 'content-type: application/json' \\
       -d '{{"model": "{PRODUCT}", "n": 4, "size": "64x64"}}'
  genloom generate {PRODUCT} -n 16 -o out.png     the same from the command line
  genloom models list                           versions, metrics, who is champion
  genloom runs compare {" ".join(outcome.run_id for outcome in outcomes)}
  genloom data add NAME FOLDER                  your own pictures
  genloom serve --stop                          end the endpoint, which goes on until then""")
