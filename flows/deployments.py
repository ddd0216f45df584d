"""Schedules on a Prefect server: each row of `schedule.yaml` is a deployment of the flow `retrain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from components.schedules import ScheduleRow

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun
    from prefect.client.schemas.responses import DeploymentResponse, FlowRunResponse

ENTRYPOINT = "flows.scheduled.scheduled"
MISSED = "Missed"
"""The state of a time at which nothing could run, and for which a later one stands."""
POLLED = timedelta(seconds=60)
"""A runner asks for work each few seconds: one that was silent for so long is not there."""
MANY = 200
"""Rows that Prefect gives at a time."""


@contextmanager
def asking(url: str, retries: int) -> Iterator[SyncPrefectClient]:
    """A client of the Prefect server at `url`, which asks a silent one `retries` times more, over some seconds."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    chosen = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: retries}
    with temporary_settings(chosen), get_client(sync_client=True) as client:
        yield client


class Deployments:
    """The deployments of one project, which `project` distinguishes from those of others."""

    def __init__(self, client: SyncPrefectClient, project: str) -> None:
        self.client, self.tag = client, f"genloom:{project}"
        self.prefix = f"{project}."

    def read(self) -> dict[str, DeploymentResponse]:
        """What is there, by the names of the schedules."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
        from prefect.client.schemas.sorting import DeploymentSort

        wanted = DeploymentFilter(tags=DeploymentFilterTags(all_=[self.tag]))
        found: list[DeploymentResponse] = []
        while more := self.client.read_deployments(
            deployment_filter=wanted, limit=MANY, offset=len(found), sort=DeploymentSort.NAME_ASC
        ):
            found += more
        return {one.name.removeprefix(self.prefix): one for one in found}

    def apply(self, rows: Mapping[str, ScheduleRow]) -> list[str]:
        """Make the deployments those of `rows`, and say what was changed; one that is the same is left alone."""
        there = self.read()
        changed = []
        for name, deployment in there.items():
            if name not in rows:
                self.client.delete_deployment(deployment.id)
                changed.append(f"{name} is removed")
        for name, row in rows.items():
            if name not in there or there[name].version != row.digest:
                self._put(name, row)
                state = " (paused)" if row.paused else ""
                changed.append(f"{name} retrains {row.run}: {row.when}, {row.timezone}{state}")
        return changed

    def _put(self, name: str, row: ScheduleRow) -> None:
        from prefect.client.schemas.actions import DeploymentScheduleCreate

        from flows.scheduled import scheduled

        self.client.create_deployment(
            flow_id=self.client.create_flow_from_name(scheduled.name),
            name=self.prefix + name,
            version=row.digest,
            entrypoint=ENTRYPOINT,
            parameters={"run": row.run, "overrides": list(row.set), "workers": row.workers},
            schedules=[DeploymentScheduleCreate(schedule=_schedule(row), active=not row.paused)],
            paused=row.paused,
            enforce_parameter_schema=False,
            tags=["genloom", self.tag],
            description=f"genloom retrain {row.run}, of {self.prefix.removesuffix('.')}",
        )

    def due(self, rows: Mapping[str, ScheduleRow]) -> list[FlowRunResponse]:
        """What is to be run now, the longest waiting first; this tells Prefect that somebody is there to do so.

        Of the times of a schedule that have passed meanwhile the last stands for all, and of a paused one for none;
        those are marked as missed. What a person ordered is run in any case.
        """
        there = {name: one.id for name, one in self.read().items() if name in rows}
        if not there:
            return []
        resting = {one for name, one in there.items() if rows[name].paused}
        while True:
            waiting = self.client.get_scheduled_flow_runs_for_deployments(
                list(there.values()), scheduled_before=datetime.now(UTC), limit=MANY
            )
            kept = superseded(waiting, resting)
            for run in waiting:
                if run.id not in kept:
                    self._miss(run.id)
            if len(waiting) < MANY:
                return sorted((run for run in waiting if run.id in kept), key=_expected)

    def _miss(self, run: UUID) -> None:
        from prefect.states import Cancelled

        message = "Nothing could run at this time; a later one stands for it."
        self.client.set_flow_run_state(run, Cancelled(name=MISSED, message=message), force=True)

    def last(self, deployment: UUID) -> FlowRun | None:
        """The latest flow run that was begun or is over."""
        from prefect.client.schemas import filters
        from prefect.client.schemas.objects import StateType
        from prefect.client.schemas.sorting import FlowRunSort

        states = [kind for kind in StateType if kind not in (StateType.SCHEDULED, StateType.PENDING)]
        found = self.client.read_flow_runs(
            deployment_filter=filters.DeploymentFilter(id=filters.DeploymentFilterId(any_=[deployment])),
            flow_run_filter=filters.FlowRunFilter(
                state=filters.FlowRunFilterState(
                    type=filters.FlowRunFilterStateType(any_=states),
                    name=filters.FlowRunFilterStateName(not_any_=[MISSED]),
                )
            ),
            sort=FlowRunSort.START_TIME_DESC,
            limit=1,
        )
        return found[0] if found else None

    def lines(self, run: UUID, after: int) -> list[str]:
        """What a flow run said, without the first `after` records of Prefect's log; an empty one is Prefect's own."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
        from prefect.client.schemas.sorting import LogSort

        from flows.scheduled import LINES

        logs = self.client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])),
            limit=MANY,
            offset=after,
            sort=LogSort.TIMESTAMP_ASC,
        )
        return [log.message if log.name.endswith(f".{LINES}") else "" for log in logs]


def superseded(waiting: Sequence[Any], resting: set[UUID]) -> set[UUID]:
    """Of the flow runs `waiting`, those that are to be run: the last time of each deployment, and all orders."""
    ordered = {run.id for run in waiting if not run.auto_scheduled}
    last: dict[UUID, Any] = {}
    for run in sorted(waiting, key=_expected):
        if run.auto_scheduled and run.deployment_id not in resting:
            last[run.deployment_id] = run
    return ordered | {run.id for run in last.values()}


def _expected(run: Any) -> datetime:
    expected: datetime = run.expected_start_time
    return expected


def attended(deployment: DeploymentResponse) -> bool:
    """Whether somebody asked a moment ago for what is to be run."""
    polled = deployment.last_polled
    return polled is not None and datetime.now(UTC) - polled < POLLED


def _schedule(row: ScheduleRow) -> Any:
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    from components.cron import ANCHOR, read_every

    zone = ZoneInfo(row.timezone)
    if row.cron is not None:
        return CronSchedule(cron=row.cron, timezone=row.timezone)
    return IntervalSchedule(
        interval=read_every(row.every or ""), anchor_date=ANCHOR.replace(tzinfo=zone), timezone=row.timezone
    )
