"""`genloom canary` and `genloom shadow`: try a version beside the champion, with a share of the real requests."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RefusedError, UserError
from flows.commands.show import AsJson, facts, listing

if TYPE_CHECKING:
    from components.promotion.canary import Criteria
    from components.promotion.ledger import Line
    from components.promotion.tally import Tally
    from components.promotion.trials import Kind
    from components.settings import Settings

Product = Annotated[str, typer.Argument(help="A product of params.yaml.", show_default=False)]
Which = Annotated[
    int | None, typer.Option("--version", help="By default the challenger.", show_default=False)
]
Share = Annotated[float, typer.Option(min=0.001, max=0.5, help="The share of those who ask that it answers.")]
Mirrored = Annotated[
    float, typer.Option(min=0.001, max=1.0, help="The share of those who ask that it is asked.")
]
Requests = Annotated[int, typer.Option(min=20, help="How many it must have had before it is promoted.")]
Minutes = Annotated[float, typer.Option(min=0, help="How long it must have run before it is promoted.")]
Slower = Annotated[
    float,
    typer.Option(min=1, help="Withdrawn when its p50 or p95 is more than so many times the champion's."),
]
Force = Annotated[bool, typer.Option("--force", help="Overrule the gate; needs --why.")]
Why = Annotated[str, typer.Option("--why", help="A remark for the ledger.", show_default=False)]


def attach(app: typer.Typer) -> None:
    """Add the nouns to `app`."""
    canary = typer.Typer(
        no_args_is_help=True,
        help="A version that answers a share of the requests, and is promoted if it does well.",
    )
    canary.command("start")(start_canary)
    canary.command("stop")(stop_canary)
    canary.command("status")(canary_status)
    app.add_typer(canary, name="canary")
    shadow = typer.Typer(
        no_args_is_help=True, help="A version that is asked beside the champion; nobody sees its answers."
    )
    shadow.command("start")(start_shadow)
    shadow.command("stop")(stop_shadow)
    shadow.command("status")(shadow_status)
    app.add_typer(shadow, name="shadow")


def start_canary(
    product: Product,
    version: Which = None,
    share: Share = 0.1,
    requests: Requests = 200,
    minutes: Minutes = 1.0,
    slower: Slower = 1.5,
    force: Force = False,
    why: Why = "",
) -> None:
    """Let a version that passes the gate answer a share; the servers promote or withdraw it by themselves."""
    from components.promotion.canary import Criteria

    if force and not why:
        raise UserError("To overrule the gate, say why: --force --why “…”.")
    _start("canary", product, version, Criteria(share, requests, minutes, slower), force, why)


def stop_canary(product: Product, why: Why = "") -> None:
    """End the canary without a verdict; the champion answers everything again."""
    _stop("canary", product, why)


def canary_status(product: Product, as_json: AsJson = False) -> None:
    """Say how the canary does beside the champion, or how the last one ended."""
    _status("canary", product, as_json)


def start_shadow(product: Product, version: Which = None, share: Mirrored = 0.1, why: Why = "") -> None:
    """Ask a version what the champion is asked, after the champion has answered; nobody sees its answers."""
    from components.promotion.canary import Criteria

    _start("shadow", product, version, Criteria(share), False, why)


def stop_shadow(product: Product, why: Why = "") -> None:
    """End the shadow."""
    _stop("shadow", product, why)


def shadow_status(product: Product, as_json: AsJson = False) -> None:
    """Say how the shadow does beside the champion, or how the last one ended."""
    _status("shadow", product, as_json)


def _start(kind: Kind, product: str, version: int | None, criteria: Criteria, force: bool, why: str) -> None:
    from components.project import open_project
    from components.promotion.trials import start
    from components.promotion.version import CHALLENGER

    project = open_project()
    row = project.product(product)
    which = CHALLENGER if version is None else version
    decision = start(project.settings, product, row, kind, criteria, which, force, why)
    if not decision.accepted:
        raise RefusedError(f"{decision.name} was refused as a {kind}. {' '.join(decision.reasons)}")
    part = "answers" if kind == "canary" else "is asked, in secret,"
    typer.echo(f"{decision.name} {part} {criteria.share:.1%} beside {product}/{decision.previous}.")
    for reason in decision.reasons:
        typer.echo(f"  {reason}")
    if not _follows(project.settings, product):
        typer.echo(
            f"No server of this project follows {product} now; it begins when one does: genloom serve {product}."
        )
    typer.echo(f"See how it does with genloom {kind} status {product}.")


def _follows(settings: Settings, product: str) -> bool:
    """Whether a server that we can see follows the product's champion; with a cluster, nobody is asked."""
    from components.serving import client, server
    from components.settings import cluster_address

    url = server.url_of(settings, product)
    if url is None:
        return bool(cluster_address())
    served = client.served(url, product)
    return served is not None and bool(served["follows"])


def _stop(kind: Kind, product: str, why: str) -> None:
    from components.project import open_project
    from components.promotion.trials import stop

    project = open_project()
    project.product(product)
    line = stop(project.settings, product, kind, why)
    typer.echo(
        f"The {kind} of {product}/{line.version} has ended; {product}/{line.champion} answers everything."
    )


def _status(kind: Kind, product: str, as_json: bool) -> None:
    from components.project import open_project
    from components.promotion import ledger

    project = open_project()
    project.product(product)
    lines = ledger.read(ledger.path_of(project.settings, product))
    trial = ledger.standing(lines).trial
    if trial is None or trial.event != kind:
        _ended(kind, product, lines, as_json)
    else:
        _running(project.settings, product, trial, as_json)


def _running(settings: Settings, product: str, line: Line, as_json: bool) -> None:
    """The two sides as all replicas have seen them, and what that says by now."""
    from datetime import UTC, datetime

    from components.promotion.canary import Names, criteria_of, decide
    from components.serving import tallies

    criteria, seen = criteria_of(line.terms), tallies.read(settings, product, line.hash)
    minutes = (datetime.now(UTC) - datetime.fromisoformat(line.time)).total_seconds() / 60
    names = Names(f"{product}/{line.champion}", f"{product}/{line.version}")
    sides = tallies.sides(seen)
    verdict = decide(criteria, *sides, minutes, names)
    rows = [_row(name, side) for name, side in zip((names.champion, names.challenger), sides, strict=True)]
    content = {
        "running": True,
        "trial": line.event,
        "product": product,
        "since": line.time,
        "by": line.who,
        "terms": criteria.numbers(),
        "replicas": len(seen),
        "verdict": verdict.what,
        "reason": verdict.reason,
    }
    if as_json:
        facts({**content, "sides": rows}, True)
        return
    facts(content, False)
    print()
    listing(rows, False)


def _row(name: str, side: Tally) -> dict[str, Any]:
    """Milliseconds, so that they can be read."""
    from components.promotion.canary import QUANTILES

    times = {share: side.quantile(share) for share in QUANTILES}
    return {
        "version": name,
        "answered": side.answered,
        "failed": side.failed,
        "dropped": side.dropped,
        **{f"p{100 * share:.0f} ms": None if time is None else 1000 * time for share, time in times.items()},
        "variety": side.variety.mean if side.variety.count else None,
        "probes": side.probes,
    }


def _ended(kind: Kind, product: str, lines: list[Line], as_json: bool) -> None:
    """How the last trial of that kind ended: by the first line after its own that ends one."""
    from components.promotion.ledger import TRIALS

    place = next((place for place in reversed(range(len(lines))) if lines[place].event == kind), None)
    last = None if place is None else lines[place]
    ends = [line for line in lines[(place or 0) + 1 :] if last is not None and _ends(line, last)]
    end = ends[0] if ends else None
    if as_json:
        told = {"last": last and dataclasses.asdict(last), "end": end and dataclasses.asdict(end)}
        facts({"running": False, "trial": kind, "product": product, **told}, True)
        return
    print(f"No {kind} of {product} runs; start one with genloom {kind} start {product}.")
    if last is not None and end is not None:
        became = {
            "promote": "was promoted",
            "withdraw": "was withdrawn",
            "stop": "was stopped",
            "revoke": "was withdrawn for good",
        }
        same = end.version == last.version and end.event not in TRIALS
        how = became.get(end.event, "was overtaken") if same else "was overtaken"
        print(
            f"The last one, of {product}/{last.version}, {how} on {end.time[:16].replace('T', ' ')} by {end.who}."
        )
        for reason in end.reasons:
            print(f"  {reason}")


def _ends(line: Line, trial: Line) -> bool:
    """Whether a later line ends the trial: another champion or trial, its own end, the end of one of its sides."""
    from components.promotion.ledger import MOVES, TRIALS

    if line.event == "revoke":
        return line.version in (trial.version, trial.champion)
    return line.event in (*MOVES, *TRIALS, "withdraw", "stop")
