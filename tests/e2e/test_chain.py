"""From raw digits to an answer over HTTP, by a real DVC, Ray, Prefect, MLflow and Ray Serve."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.torch import load_file

from components.project import open_project
from components.train.launch import train
from components.train.runs import read_run, read_runs
from tests.e2e.processes import Command, free_port, line
from tests.until import until


def shorten(project: Path, steps: int) -> None:
    """The same runs with fewer steps."""
    path = project / "params.yaml"
    text = path.read_text()
    path.write_text(text.replace("steps: 6000", f"steps: {steps}").replace("steps: 3000", f"steps: {steps}"))


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.long  # a fresh checkout is asked to run it twice anyway (.ci/run)
def test_the_demo_twice(project: Path, command: Command) -> None:
    shorten(project, 300)
    port = str(free_port())
    try:
        first = command("demo", "--port", port)
        assert first.returncode == 0, first.stderr
        assert f"http://127.0.0.1:{port}/v1/images/generations" in first.stdout
        assert "out/demo.png" in first.stdout
        picture = np.asarray(Image.open(project / "out" / "demo.png").convert("L"), dtype=float)
        assert min(picture.shape) >= 8 * 8
        assert picture.std() > 30, "a grid of digits is neither flat nor empty"
        assert {run.state for run in read_runs(open_project().settings)} == {"done"}
        the_endpoint_answers(port)
        again = command("demo", "--port", port)
        assert again.returncode == 0, again.stderr
        assert again.stderr.count("already; --fresh trains it anyway") == 2
        assert len(read_runs(open_project().settings)) == 2
        the_records_agree(command)
    finally:
        stopped = command("serve", "--stop")
    assert stopped.returncode == 0, stopped.stderr


def the_endpoint_answers(port: str) -> None:
    body = {"model": "digits", "n": 2, "seed": 5, "size": "64x64"}
    answers = [
        httpx.post(f"http://127.0.0.1:{port}/v1/images/generations", json=body, timeout=60) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["data"] == answers[1].json()["data"], "the same seed draws the same"
    first = Image.open(io.BytesIO(base64.b64decode(answers[0].json()["data"][0]["b64_json"])))
    assert first.size == (64, 64)
    assert answers[0].headers["x-genloom-model"] == "digits"
    assert answers[0].headers["x-genloom-version"] in {"1", "2"}


def the_records_agree(command: Command) -> None:
    """Registry, ledger, lineage and runs tell one story."""
    versions = json.loads(command("models", "list", "digits", "--json").stdout)
    assert len(versions) == 2
    champions = [version for version in versions if "champion" in version["aliases"]]
    assert len(champions) == 1
    lineage = json.loads(command("models", "lineage", "digits@champion", "--json").stdout)
    text = json.dumps(lineage)
    champion = read_run(open_project().settings, champions[0]["run"])
    assert champion.key in text
    assert champion.revision in text
    assert command("ledger", "verify", "digits").returncode == 0


@pytest.mark.usefixtures("no_process_left")
def test_kill_9_of_a_ray_worker_half_way_ends_with_the_same_weights(project: Path) -> None:
    overrides = ["train.steps=2000", "train.threads=1", "train.checkpoint_every=200", "train.log_every=100"]
    train(open_project(), "digits-vae", overrides, workers=0)
    straight = read_run(open_project().settings, "digits-vae")
    expected = load_file(straight.artifact / "networks.safetensors")
    home = project / "killed"
    arguments = ["train", "digits-vae", "--workers", "1"]
    for override in overrides:
        arguments += ["--set", override]
    environment = {**os.environ, "GENLOOM_HOME": str(home)}
    process = subprocess.Popen(
        line(*arguments), cwd=project, env=environment, stderr=subprocess.PIPE, text=True
    )
    folder = home / "runs" / straight.id
    kill_worker(process, folder)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    found = load_file(folder / "artifact" / "networks.safetensors")
    assert found.keys() == expected.keys()
    assert all(bool((found[name] == expected[name]).all()) for name in found)


def wait_for_a_checkpoint(process: subprocess.Popen[str], runs: Path) -> None:
    until(lambda: any(runs.glob("*/checkpoints/step-*/state.json")) or process.poll() is not None, 200)
    assert process.poll() is None


def called(process: psutil.Process) -> str:
    """Its command line; of one that ends meanwhile nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def kill_worker(process: subprocess.Popen[str], folder: Path) -> None:
    """Kill -9 the Ray worker once there is a checkpoint, before it is done."""
    wait_for_a_checkpoint(process, folder.parent)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in called(child)
    ]
    assert workers
    for worker in workers:
        worker.kill()
    assert not (folder / "artifact").exists(), "killed half-way"


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.long  # Ray takes half a minute to end its workers
def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(project: Path) -> None:
    steps = ["--set", "train.steps=1000000", "--set", "train.checkpoint_every=100"]
    process = subprocess.Popen(
        line("train", "digits-vae", "--workers", "1", *steps),
        cwd=project,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for_a_checkpoint(process, open_project().settings.runs)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    assert read_run(open_project().settings, "digits-vae").state == "stopped"


@pytest.mark.usefixtures("no_process_left")
def test_two_workers_and_more_workers_than_cores(command: Command) -> None:
    many = command("train", "digits-vae", "--workers", "64")
    assert many.returncode == 2
    assert "64 workers × 1 CPU each = 64 CPUs, and there are" in many.stderr
    assert "Traceback" not in many.stderr
    two = command("train", "digits-vae", "--workers", "2", "--set", "train.steps=200")
    assert two.returncode == 0, two.stderr
    record = read_run(open_project().settings, "digits-vae")
    assert record.workers == 2
    assert record.state == "done"


@pytest.mark.usefixtures("no_process_left")
def test_wrong_use_of_retrain_is_one_sentence(command: Command) -> None:
    said = command("retrain", "digits-vae", "--workers", "64")
    assert said.returncode == 2
    assert said.stderr.splitlines()[-1].startswith("genloom: 64 workers × 1 CPU each = 64 CPUs")
    assert "Traceback" not in said.stderr
    assert "Error logging" not in said.stderr
