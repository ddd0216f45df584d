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

TUNE = ["tune", "digits-vae", "--over", "lr", "--metric", "nats", "--set", "train.threads=1"]


@pytest.mark.usefixtures("no_process_left")
def test_ctrl_c_ends_a_search_and_the_same_command_goes_on(project: Path, command: Command) -> None:
    """The trial is far too long to come to its end before the signal."""
    arguments = [*TUNE, "--steps", "900000", "--trials", "1", "--set", "model.width=64"]
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


@pytest.mark.usefixtures("no_process_left")
def test_a_search_by_the_products_own_metric(project: Path, command: Command) -> None:
    done = command(*TUNE[:4], "--trials", "1", "--steps", "9", "--whole", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["metric"], found["better"]) == ("judge_frechet_distance", "lower")
    assert found["best"]["settings"] == {"lr": 0.001}
    assert "best" in done.stderr
