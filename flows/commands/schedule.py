"""`genloom schedule`: runs that are retrained by themselves; only a better model reaches production."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from components.errors import FailedError, UserError
from flows.commands.show import AsJson, listing
from flows.commands.train import Set, Workers

if TYPE_CHECKING:
    from components.project import Project
    from components.schedules import ScheduleRow
    from flows.deployments import Deployments

Run = Annotated[str, typer.Argument(help="A run of params.yaml.", show_default=False)]
Name = Annotated[str, typer.Argument(help="A schedule.", show_default=False)]
Cron = Annotated[
    str | None,
    typer.Option(help='When, as cron has it: "0 3 * * *" is each night at three.', show_default=False),
]
Every = Annotated[str | None, typer.Option(help="Or how often: 30m, 6h, 1d.", show_default=False)]
Zone = Annotated[
    str | None,
    typer.Option(help="Whose clocks, such as Europe/Berlin; by default this machine's.", show_default=False),
]
Called = Annotated[
    str | None, typer.Option("--name", help="Its name; by default the run's.", show_default=False)
]
Detach = Annotated[bool, typer.Option("--detach", help="Leave it in the background.")]
Port = Annotated[
    int | None,
    typer.Option(
        min=1, max=65535, help="Of its Prefect server; kept. At first 4200, if free.", show_default=False
    ),
]
LOOK = 0.5
"""Seconds between two looks at a retraining that is followed."""
PATIENCE = 60.0
"""Seconds in which a schedule that was just written must be known to Prefect."""
INTERRUPTED = 130
START = "genloom schedule start --detach"


def attach(app: typer.Typer) -> None:
    """Add the noun to `app`."""
    schedule = typer.Typer(no_args_is_help=True, help="Runs that are retrained by themselves, by the clock.")
    schedule.command("add")(add)
    schedule.command("list")(show_all)
    schedule.command("pause")(pause)
    schedule.command("resume")(resume)
    schedule.command("remove")(remove)
    schedule.command("run")(run_now)
    schedule.command("start")(start)
    schedule.command("stop")(stop)
    app.add_typer(schedule, name="schedule")


def add(
    run: Run,
    cron: Cron = None,
    every: Every = None,
    timezone: Zone = None,
    overrides: Set = None,
    workers: Workers = None,
    name: Called = None,
) -> None:
    """Retrain a run by the clock from now on; the schedule is written into schedule.yaml."""
    from components import schedules
    from components.project import open_project
    from flows.check import check_retraining

    project = open_project()
    project.run(run)
    if (cron is None) == (every is None):
        raise UserError(
            'Say when: --cron "0 3 * * *" for each night at three, or --every 6h; one of the two.'
        )
    row = schedules.schedule_row(
        run, cron=cron, every=every, timezone=timezone, set=overrides, workers=workers
    )
    check_retraining(project, run, overrides or (), workers)
    name = name or run
    schedules.add(project, name, row)
    typer.echo(f"{name} retrains {run}: {row.when}, {row.timezone}; the next time is {_time(_next(row))}.")
    _warn(project)


def show_all(as_json: AsJson = False) -> None:
    """List the schedules: when they come next, and what came of the last time."""
    from components.project import open_project
    from components.schedules import read_schedules

    project = open_project()
    known = read_schedules(project.root).schedules
    told = _told(project)
    rows = [_row(name, row, told.get(name)) for name, row in known.items()]
    listing(
        rows if as_json else [_line(row) for row in rows],
        as_json,
        'There are no schedules yet; add one with genloom schedule add RUN --cron "0 3 * * *".',
    )
    if known and not as_json:
        _warn(project)


def pause(name: Name) -> None:
    """Let a schedule rest until it is resumed; what is under way goes on."""
    _pause(name, True)
    typer.echo(f"{name} is paused; genloom schedule resume {name} lets it go on.")


def resume(name: Name) -> None:
    """Let a paused schedule go on."""
    row = _pause(name, False)
    typer.echo(f"{name} goes on; the next time is {_time(_next(row))}.")


def remove(name: Name) -> None:
    """Take a schedule out of schedule.yaml; its models stay, and what is under way goes on."""
    from components import schedules
    from components.project import open_project

    project = open_project()
    schedules.read_schedules(project.root).row(name)
    schedules.remove(project, name)
    typer.echo(f"{name} is removed.")


def run_now(name: Name) -> None:
    """Have the schedule retrain now, paused or not, and follow it; it ends as genloom retrain would."""
    from components.project import open_project
    from components.schedules import read_schedules

    project = open_project()
    row = read_schedules(project.root).row(name)
    with _deployments(project) as deployments:
        code = _followed(project, deployments, _order(deployments, name, row))
    raise typer.Exit(code)


def start(detach: Detach = False, port: Port = None) -> None:
    """Execute the schedules, until Ctrl-C or in the background, by a Prefect server on loopback."""
    from components.project import open_project
    from components.schedules import read_schedules
    from flows import scheduler

    project = open_project()
    read_schedules(project.root)  # what is wrong with it is said here, not in the log
    if detach:
        running = scheduler.start_detached(project, port)
        typer.echo(f"The schedule runs in the background; Prefect is at {running.url}.")
        typer.echo(f"Its log is {scheduler.log_of(project.settings)}; end it with genloom schedule stop.")
        return
    if (there := scheduler.find(project.settings)) is not None:
        raise UserError(
            f"The schedule runs already (process {there.pid}); end it first with genloom schedule stop."
        )
    chosen = scheduler.choose_port(project.settings, port)
    typer.echo("Starting; end it with Ctrl-C.")
    scheduler.host(project, chosen, scheduler.until_signal())


def stop() -> None:
    """End the schedule in the background; what it trains goes on from its checkpoint the next time."""
    from components.project import open_project
    from flows import scheduler

    stopped = scheduler.stop(open_project().settings)
    typer.echo("No schedule runs." if stopped is None else "The schedule has ended.")


def _pause(name: str, paused: bool) -> ScheduleRow:
    from components import schedules
    from components.project import open_project

    project = open_project()
    row = schedules.read_schedules(project.root).row(name)
    schedules.pause(project, name, paused)
    return row


def _next(row: ScheduleRow) -> datetime:
    return row.next(datetime.now(UTC))


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


@contextmanager
def _deployments(project: Project) -> Iterator[Deployments]:
    """The project's schedules as Prefect knows them. Raises `UserError` if there is no server that does."""
    import httpx

    from components.schedules import named, read_schedules
    from flows import scheduler
    from flows.deployments import Deployments, asking

    url = scheduler.url_of(project.settings)
    if url is None:
        raise UserError(f"Nothing executes the schedules now; type {START}, then the same again.")
    try:
        with asking(url, retries=3 if scheduler.find(project.settings) is None else 0) as client:
            yield Deployments(client, named(project.root, read_schedules(project.root)))
    except httpx.HTTPError as error:
        raise FailedError(
            f"Prefect's server at {url} does not answer ({error}); see genloom schedule list."
        ) from error


def _order(deployments: Deployments, name: str, row: ScheduleRow) -> UUID:
    """Order a flow run of the schedule, once Prefect knows it as it is written now."""
    from flows.deployments import attended

    deadline = time.monotonic() + PATIENCE
    while True:
        known = deployments.read().get(name)
        if known is not None and known.version == row.digest and attended(known):
            return deployments.client.create_flow_run_from_deployment(known.id).id
        if time.monotonic() > deadline:
            raise UserError(f"Nothing executes the schedule {name} now; type {START}, then the same again.")
        time.sleep(LOOK)


def _followed(project: Project, deployments: Deployments, flow_run: UUID) -> int:
    """Say what a flow run says until it is over; the exit code of genloom retrain."""
    import httpx

    from flows import scheduler
    from flows.progress import say
    from flows.scheduled import result_of

    shown, state = 0, None
    try:
        while state is None or not state.is_final():
            time.sleep(LOOK)
            try:
                state = deployments.client.read_flow_run(flow_run).state
                while lines := deployments.lines(flow_run, shown):
                    shown += len(lines)
                    for line in filter(None, lines):
                        say(line)
            except httpx.HTTPError:
                if scheduler.find(project.settings) is None:  # or else it starts its server again
                    raise
                state = None
    except KeyboardInterrupt:
        say("It goes on in the background; genloom schedule list says what came of it.")
        return INTERRUPTED
    result = result_of(state)
    if result.exit_code:
        raise (UserError if result.exit_code == UserError.exit_code else FailedError)(result.reason)
    print(f"{result.version}: {result.outcome.lower()}")
    return 0


def _told(project: Project) -> dict[str, tuple[bool, dict[str, Any] | None]]:
    """Of each schedule that Prefect knows: whether somebody is there to execute it, and what came of it last.

    Where no server runs, it is what was known when one did.
    """
    from flows import last, scheduler
    from flows.deployments import attended

    if scheduler.url_of(project.settings) is None:
        known = last.kept(scheduler.folder_of(project.settings))
        return {name: (False, one) for name, one in known.items()}
    here = scheduler.find(project.settings) is not None
    with _deployments(project) as deployments:
        return {
            name: (here or attended(one), last.told(deployments.last(one.id)))
            for name, one in deployments.read().items()
        }


def _row(name: str, row: ScheduleRow, told: tuple[bool, dict[str, Any] | None] | None) -> dict[str, Any]:
    executed, last = told or (False, None)
    return {
        "name": name,
        **{"run": row.run, "cron": row.cron, "every": row.every, "timezone": row.timezone},
        **{"set": list(row.set), "workers": row.workers, "paused": row.paused},
        "next": None if row.paused else _next(row).isoformat(),
        "last": last,
        "executed": executed,
    }


def _line(row: dict[str, Any]) -> dict[str, Any]:
    """A row that fits a terminal."""
    last = row["last"]
    said = None
    if last is not None:
        what = " ".join(filter(None, (last["outcome"], last["version"])))
        why = last["reason"] if last["outcome"] != "promoted" else None
        said = f"{last['began'][:16].replace('T', ' ')} {what}{f': {why}' if why else ''}"
    following = "paused" if row["paused"] else row["next"][:16].replace("T", " ")
    when = row["cron"] or f"every {row['every']}"
    return {
        **{"name": row["name"], "run": row["run"], "when": f"{when} {row['timezone']}"},
        **{"next": following, "last": said},
    }


def _warn(project: Project) -> None:
    """Say so if nothing executes the schedules."""
    from flows import scheduler

    if scheduler.find(project.settings) is None:
        typer.echo(f"Nothing here executes the schedules now; type {START}.", err=True)
