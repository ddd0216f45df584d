"""`genloom tune` as a person types it, stops it and types it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from components.project import open_project
from components.tuning.records import read_sweep
from tests.e2e.processes import Command, line
from tests.until import until

TUNE = [
    "tune",
    "digits-vae",
    "--over",
    "lr",
    "--metric",
    "nats",
    "--set",
    "train.threads=1",
    "--set",
    "model.width=64",
]


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.long  # Prefect and Ray are started twice
def test_ctrl_c_ends_a_search_and_the_same_command_goes_on(project: Path, command: Command) -> None:
    """A trial that would take an hour is interrupted; of a short search the same command says what was found."""
    arguments = [*TUNE, "--steps", "900000", "--trials", "1"]
    sweeps = open_project().settings.shared / "sweeps"
    process = subprocess.Popen(
        line(*arguments), cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: list(sweeps.glob("*/trials/*/stop")) or process.poll() is not None, 300)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "1 interrupted" in said
    assert "Traceback" not in said
    (folder,) = sweeps.iterdir()
    left = read_sweep(folder)
    assert left is not None
    assert left.trials[0].state == "running"
    assert (folder / "report.json").is_file()

    short = [*TUNE, "--steps", "9", "--trials", "2"]
    done = command(*short)
    assert done.returncode == 0, done.stderr
    again = command(*short, "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["metric"], len(found["trials"])) == ("nats", 2)
    assert found["command"] in done.stdout
