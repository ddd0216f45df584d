"""check, doctor, families, train: what they say, and how wrong use ends."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.processes import line

Genloom = Callable[..., Any]


@pytest.mark.usefixtures("project")
def test_check_reads_params_whole(genloom: Genloom) -> None:
    said = genloom("check", "--json")
    assert said.code == 0
    assert {row["run"] for row in json.loads(said.out)} >= {
        "digits-vae",
        "digits-gan",
        "mnist-vae",
        "mnist-gan",
    }


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("family: vae", "family: vea", "There is no family “vea”; did you mean vae"),
        ("model: {latent: 16", "model: {latnet: 16", "did you mean model.latent"),
        ("model: {latent: 16", "model: {latent: 0", "model.latent = 0 is out of range"),
        (
            "product: digits\n",
            "product: digit\n",
            "runs.digits-vae: There is no product “digit”; did you mean digits",
        ),
        (
            "    dataset: digits",
            "    dataset: digts",
            "products.digits: There is no dataset “digts”; did you mean digits",
        ),
        ("task: free", "task: label", "does free; choose another family or product"),
        ("source: digits", "source: digts", "digts"),
        ("steps: 6000", "stepz: 6000", "There is no field “stepz”; did you mean steps"),
        ("batch: 64", "batch: -1", "batch"),
        ("steps: 6000", "steps: 2020-13-45", "is not valid YAML"),
        ("task: free", "task: free\n    primary: nonsense", "There is no metric “nonsense”"),
        ("task: free", "task: free\n    guards: {judge_recal: {least: 0.1}}", "did you mean judge_recall"),
        ("task: free", "task: free\n    guards: {judge_recall: {least: .nan}}", "finite number"),
        ("task: free", "task: free\n    min_gain: .inf", "finite number"),
        ("runs:", "runs: [", "is not valid YAML"),
        ("runs:", "runs: " + "[" * 3000, "is not valid YAML"),
        ("datasets:", "dataset:", "There is no field “dataset”; did you mean datasets"),
    ],
)
def test_check_names_what_is_wrong(
    project: Path, genloom: Genloom, old: str, new: str, sentence: str
) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    said = genloom("check")
    assert said.code == 2
    assert sentence in " ".join((said.out + said.err).split())
    assert "Traceback" not in said.err


def test_check_reads_products_without_runs_and_what_runs_begin_from(project: Path, genloom: Genloom) -> None:
    path = project / "params.yaml"
    text = path.read_text()
    idle = "products:\n  idle: {dataset: digits, primary: nonsense}\n"
    path.write_text(text.replace("products:\n", idle, 1))
    said = genloom("check", "--json")
    assert said.code == 2
    wrong = [row for row in json.loads(said.out) if row["finding"] != "ok"]
    assert [(row["run"], row["product"]) for row in wrong] == [("–", "idle")]
    assert "There is no metric “nonsense”" in wrong[0]["finding"]
    for init, sentence in (("digits/99", "digits"), ("hf:nowhere", "no readable config.json")):
        path.write_text(text.replace("family: vae\n", f"family: vae\n    init: {init}\n", 1))
        said = genloom("check", "--json")
        assert said.code == 2
        (row,) = (row for row in json.loads(said.out) if row["finding"] != "ok")
        assert sentence in row["finding"]


def test_outside_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, genloom: Genloom) -> None:
    monkeypatch.chdir(tmp_path)
    said = genloom("check")
    assert said.code == 2
    assert "No params.yaml" in said.err


@pytest.mark.usefixtures("project")
def test_doctor_examines_the_machine(genloom: Genloom, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        monkeypatch.setenv("GENLOOM_PORT", str(busy.getsockname()[1]))
        findings = {row["subject"]: row for row in json.loads(genloom("doctor", "--json").out)}
    assert {"Python", "torch", "ray", "cores", "memory", "disk", "GPU", "port", "RAY_ADDRESS"} <= set(
        findings
    )
    assert findings["torch"]["verdict"] == "ok"
    assert "in use" in findings["port"]["found"]
    monkeypatch.setenv("GENLOOM_TRACKING_URI", "http://127.0.0.1:1")
    said = genloom("doctor", "--json")
    assert said.code == 1
    findings = {row["subject"]: row for row in json.loads(said.out)}
    assert findings["GENLOOM_TRACKING_URI"]["verdict"] == "mend"


@pytest.mark.usefixtures("project")
def test_families_and_their_fields(genloom: Genloom) -> None:
    listed = json.loads(genloom("families", "--json").out)
    assert {row["family"] for row in listed} >= {"gan", "vae"}
    fields = json.loads(genloom("families", "vae", "--json").out)
    assert {"model.lr", "model.latent"} <= {row["field"] for row in fields}
    said = genloom("families", "vea")
    assert said.code == 2
    assert "did you mean vae" in said.err


@pytest.mark.usefixtures("project")
def test_train_in_process(genloom: Genloom) -> None:
    arguments = [
        "train",
        "digits-vae",
        "--workers",
        "0",
        "--set",
        "train.steps=20",
        "--set",
        "train.threads=1",
    ]
    first = genloom(*arguments)
    assert first.code == 0, first.err
    assert (Path(first.out.strip()) / "model.json").is_file()
    again = genloom(*arguments)
    assert "was trained already" in " ".join(again.err.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "digits-vea"], "There is no run “digits-vea”; did you mean digits-vae"),
        (
            ["train", "digits-vae", "--set", "model.latent=-3"],
            "model.latent = -3 is out of range: at least 1",
        ),
        (["train", "digits-vae", "--set", "model.latemt=3"], "did you mean model.latent"),
        (["train", "digits-vae", "--workers", "-1"], "Invalid value for '--workers'"),
        (["retrain", "nothing"], "There is no run “nothing”"),
        (["retrain", "digits-vae", "--set", "model.latemt=3"], "did you mean model.latent"),
        (["retrain", "digits-vae", "--set", "init=digits/9"], "There is no registered product “digits” yet"),
        (["trian", "digits-vae"], "No such command 'trian'"),
        (["train"], "Missing argument"),
    ],
)
@pytest.mark.usefixtures("project")
def test_wrong_use_ends_with_2_and_one_sentence(
    genloom: Genloom, arguments: list[str], sentence: str
) -> None:
    said = genloom(*arguments)
    assert said.code == 2
    assert sentence in said.err
    assert "Traceback" not in said.err
    assert not Path(".genloom/runs").exists()


def test_the_terms_of_a_product_are_read_before_anything_is_trained(project: Path, genloom: Genloom) -> None:
    params = (project / "params.yaml").read_text()
    product = "  digits:\n    dataset: digits\n    task: free\n"
    assert product in params
    for terms, sentence in (
        ("guards: {judge_recal: {least: 0.3}}", "judge_recal"),
        ("filter: {code: missing.py}", "missing.py cannot be read"),
    ):
        (project / "params.yaml").write_text(params.replace(product, f"{product}    {terms}\n"))
        said = genloom("retrain", "digits-vae")
        assert (said.code, said.out) == (2, "")
        assert sentence in said.err
        assert not Path(".genloom/prefect").exists()


def test_a_prefect_server_that_does_not_answer_is_one_sentence(project: Path) -> None:
    """In a process of its own, because this one may have met Prefect, which then keeps to the server of that time."""
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    said = subprocess.run(
        line("retrain", "digits-vae"),
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert said.returncode == 2
    assert "No Prefect server answers at PREFECT_API_URL=http://127.0.0.1:9/api" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_home_that_cannot_be_written(
    project: Path, monkeypatch: pytest.MonkeyPatch, genloom: Genloom
) -> None:
    (project / "file").write_text("not a folder")
    monkeypatch.setenv("GENLOOM_HOME", str(project / "file" / "home"))
    for verb in (
        ["train", "digits-vae", "--workers", "0"],
        ["retrain", "digits-vae"],
        ["demo", "--port", "1"],
    ):
        said = genloom(*verb)
        assert said.code == 2, said.err
        assert "(GENLOOM_HOME) cannot be written" in said.err
        assert "Traceback" not in said.err


def test_a_setting_that_cannot_be_meant(
    project: Path, monkeypatch: pytest.MonkeyPatch, genloom: Genloom
) -> None:
    for name, value, sentence in (
        ("GENLOOM_PORT", "eighty", "GENLOOM_PORT is 'eighty'"),
        ("GENLOOM_STORAGE", "s3://bucket/x", "must be a folder, not a URL"),
        ("GENLOOM_HOME", "~nobody-here/x", "there is no such user"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            said = genloom("check")
        assert said.code == 2
        assert sentence in said.err
    monkeypatch.setenv("GENLOOM_HOME", "")
    assert genloom("train", "digits-vae", "--workers", "0", "--set", "train.steps=1").code == 0
    assert (project / ".genloom" / "runs").is_dir(), "an empty value is no value"
