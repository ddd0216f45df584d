"""The flow `retrain` as a schedule runs it: what came of it is the name and the message of its last state.

`python -m flows.scheduled ID` executes one flow run in the current folder's project.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Completed, Failed

from components.errors import UserError
from flows.retrain import Outcome, retrain

PROMOTED, REFUSED, FAILED, WRONG, CRASHED = "Promoted", "Refused", "Failed", "Wrong use", "Crashed"
"""The names of the states in which a scheduled retraining ends; a refusal is a success."""
LINES = "genloom"
"""The last part of the name of the logger that has our own lines."""
CODES = {PROMOTED: 0, REFUSED: 0, WRONG: UserError.exit_code}
"""How `genloom retrain` would have ended; 1 for everything else."""


@dataclass(frozen=True)
class Result:
    """What is told of a scheduled retraining that has ended: how, the version such as digits/3, and why."""

    outcome: str
    version: str | None
    reason: str

    @property
    def exit_code(self) -> int:
        """That of `genloom retrain`, had it ended so."""
        return CODES.get(self.outcome, 1)


def concluded(outcome: Outcome) -> State[None]:
    """The state of a retraining that was done."""
    reasons = " ".join(outcome.reasons)
    name = PROMOTED if outcome.promoted else REFUSED
    return Completed(name=name, message=f"{outcome.product}/{outcome.version}: {reasons}")


def result_of(state: State[Any]) -> Result:
    """What a last state tells, whether it is ours or Prefect's own."""
    message = state.message or ""
    if state.name in (PROMOTED, REFUSED):
        version, _, reason = message.partition(": ")
        return Result(state.name, version, reason)
    return Result(state.name or state.type.value.capitalize(), None, message)


@flow(name="retrain", flow_run_name="retrain-{run}", validate_parameters=False)
def scheduled(run: str, overrides: Sequence[str] = (), workers: int | None = None) -> State[None]:
    """Retrain `run` of the project around the current folder, and say in the last state what came of it."""
    from components.project import open_project
    from flows.check import check_retraining
    from flows.progress import say
    from flows.server import flush

    try:
        project = open_project()
        check_retraining(project, run, overrides, workers)
        outcome = retrain.fn(project.root, run, list(overrides), workers)
        for reason in outcome.reasons:
            say(f"gate       {reason}")
        return concluded(outcome)
    except UserError as error:
        say(f"failed     {error}")
        return Failed(name=WRONG if error.exit_code == CODES[WRONG] else FAILED, message=str(error))
    finally:
        flush()  # whoever follows has all lines by the time that the run is over


def execute(flow_run: FlowRun) -> State[Any]:
    """Run `flow_run` in this process to its last state; its lines go to the terminal and to Prefect's log."""
    from prefect.flow_engine import run_flow
    from prefect.logging.loggers import flow_run_logger

    from flows import progress

    log = flow_run_logger(flow_run, scheduled).getChild(LINES)
    progress.listeners.append(log.info)
    state: State[Any] = run_flow(
        scheduled, flow_run=flow_run, parameters=flow_run.parameters, return_type="state"
    )  # type: ignore[assignment]
    return state


def main() -> None:
    """Execute the flow run that the command line names."""
    from prefect.client.orchestration import get_client

    from components.settings import quiet_environment

    quiet_environment()
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(sys.argv[1]))
    sys.exit(result_of(execute(flow_run)).exit_code)


if __name__ == "__main__":
    main()
