import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from components.artifact import About, read_manifest, save
from components.evaluation.report import Metric, Report, write_report
from components.families.family import Shape, kind_of
from components.promotion.registry import Registry
from components.promotion.tally import Tally
from components.promotion.version import Version
from components.serving.tallies import Seen, write
from components.settings import Settings, read_settings
from components.tracking import open_client
from flows.commands import main


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `mlflow.db` with nothing in it: making one takes seconds, copying it does not."""
    home = tmp_path_factory.mktemp("store")
    open_client(Settings(home=home))
    return home / "mlflow.db"


@pytest.fixture
def root(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with no data, in which only the commands of these tests are loaded."""
    root = tmp_path / "project"
    (root / ".genloom").mkdir(parents=True)
    shutil.copy(empty_store, root / ".genloom")
    (root / "params.yaml").write_text(
        "datasets: {digits: {source: digits}}\nproducts: {digits: {dataset: digits}, other: {dataset: digits}}\n"
    )
    monkeypatch.chdir(root)
    monkeypatch.setattr(main, "MODULES", ("models",))
    monkeypatch.setenv("COLUMNS", "200")
    return root


@pytest.fixture
def register(root: Path) -> Callable[[int, float], Version]:
    """Register an untrained model and an evaluation that says `distance`."""

    def call(seed: int, distance: float) -> Version:
        torch.manual_seed(seed)
        folder = root.parent / f"run-{seed}"
        family, shape = kind_of("vae")(latent=2, width=8), Shape(data=(1, 4, 4))
        parameters = {"family": "vae", "init": None, "model": {"latent": 2}}
        origin = ("digits", "digits-vae", "digits", "r1", "CC BY 4.0", "digits", [], "image")
        about = About(*origin, key=f"key-{seed}", parameters=parameters, commit="0123", dirty=False, steps=1)
        save(folder / "artifact", family, family.networks(shape), shape, about)
        metric = Metric(distance, distance - 1, distance + 1, "lower")
        report = Report(
            artifact=read_manifest(folder / "artifact")["digest"],
            family="vae",
            dataset="digits",
            revision="r1",
            protocol={"samples": 100},
            metrics={"distance": metric},
            baseline={"distance": Metric(50.0, 49.0, 51.0, "lower")},
            reference={"distance": Metric(1.0, 0.5, 1.5, "lower")},
            pictures=("samples.png",),
        )
        write_report(folder / "evaluation", report)
        (folder / "evaluation" / "samples.png").write_bytes(b"png")
        registry = Registry(read_settings(root))
        return registry.register(
            folder / "artifact", folder / "evaluation", f"digits-vae-{seed}", "", "flow-7"
        )

    return call


def test_a_project_without_versions_says_how_to_make_one(root: Path, genloom) -> None:
    assert genloom("models", "list").out.startswith("No versions yet")
    assert json.loads(genloom("models", "list", "other", "--json").out) == []
    assert genloom("ledger", "verify").code == 0
    for arguments, words in {
        ("models", "list", "digit"): "“digit”; did you mean digits",
        ("models", "show", "digits/1"): "no registered product “digits”",
        ("promote", "digit"): "no product “digit”; did you mean digits",
        ("rollback", "digits"): "no registered product “digits” yet; make one",
        ("ledger", "show", "digits"): "no ledger “digits”",
    }.items():
        said = genloom(*arguments)
        assert said.code == 2, said
        assert words in said.err
        assert "Traceback" not in said.err


def test_versions_are_promoted_refused_and_rolled_back(root: Path, register, genloom) -> None:
    register(1, 10.0)
    said = genloom("promote", "digits")
    assert said.code == 0
    assert said.out.startswith("digits/1 is champion.\n")
    again = genloom("promote", "digits")
    assert (again.code, "already champion" in again.out) == (0, True)
    register(2, 12.0)
    refused = genloom("promote", "digits")
    assert refused.code == 3
    assert "digits/2 was refused" in refused.err
    assert "2 worse" in refused.err
    silent = genloom("promote", "digits", "--force")
    assert (silent.code, "say why" in silent.err) == (2, True)
    forced = genloom("promote", "digits", "--version", "2", "--force", "--why", "a trial")
    assert forced.out.startswith("digits/2 is champion in the place of digits/1.\n")
    back = genloom("rollback", "digits", "--why", "it failed")
    assert back.out.startswith("digits/1 is champion in the place of digits/2.\n")
    rows = json.loads(genloom("models", "list", "--json").out)
    assert [(row["version"], row["aliases"]) for row in rows] == [
        ("digits/2", ["challenger"]),
        ("digits/1", ["champion"]),
    ]
    assert {key: rows[1][key] for key in ("metric", "value", "low", "high")} == {
        "metric": "distance",
        "value": 10.0,
        "low": 9.0,
        "high": 11.0,
    }
    assert "10 [9, 11]" in genloom("models", "list", "digits").out
    events = json.loads(genloom("ledger", "show", "digits", "--json").out)
    assert [event["event"] for event in events] == ["promote", "refuse", "promote", "rollback"]
    assert [event["why"] for event in events] == ["", "", "a trial", "it failed"]
    assert genloom("ledger", "verify").out == "digits: 4 lines, the chain is whole.\n"
    path = root / ".genloom" / "ledger" / "digits.jsonl"
    path.write_text(path.read_text().replace("a trial", "a crime"))
    broken = genloom("ledger", "verify", "digits")
    assert broken.code == 1
    assert "Line 3 of" in broken.err


def test_a_canary_is_started_shown_and_stopped(
    root: Path, register, genloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "MODULES", ("models", "trials"))
    register(1, 10.0)
    genloom("promote", "digits")
    register(2, 8.0)
    idle = genloom("canary", "status", "digits")
    assert idle.out == "No canary of digits runs; start one with genloom canary start digits.\n"
    said = genloom("canary", "start", "digits", "--share", "0.2", "--requests", "50", "--minutes", "5")
    assert said.code == 0, said.err
    assert said.out.startswith("digits/2 answers 20.0% beside digits/1.\n")
    assert "No server of this project follows digits now" in said.out
    settings = read_settings(root)
    turn = json.loads(genloom("ledger", "show", "digits", "--json").out)[-1]["hash"]
    for replica in ("a", "b"):
        sides = Tally(failed=1), Tally()
        for side, count in zip(sides, (40, 4), strict=True):
            for _ in range(count):
                side.answer("draw", 0.010)
        write(settings, "digits", Seen(turn, replica, *sides))
    status = json.loads(genloom("canary", "status", "digits", "--json").out)
    assert (status["running"], status["trial"], status["replicas"], status["verdict"]) == (
        True,
        "canary",
        2,
        "wait",
    )
    assert status["reason"] == "digits/2 has had 8 of 50 requests."
    assert status["terms"] == {"share": 0.2, "requests": 50, "minutes": 5, "slower": 1.5, "variety": 0.5}
    assert [(one["version"], one["answered"], one["failed"]) for one in status["sides"]] == [
        ("digits/1", 80, 2),
        ("digits/2", 8, 0),
    ]
    assert status["sides"][1]["p50 ms"] == pytest.approx(10, rel=0.05)
    assert "digits/2 has had 8 of 50 requests." in genloom("canary", "status", "digits").out
    other = genloom("shadow", "start", "digits")
    assert (other.code, "A canary of digits/2 runs; stop it first" in other.err) == (2, True)
    assert json.loads(genloom("shadow", "status", "digits", "--json").out)["running"] is False
    stopped = genloom("canary", "stop", "digits", "--why", "enough")
    assert stopped.out == "The canary of digits/2 has ended; digits/1 answers everything.\n"
    assert "The last one, of digits/2, was stopped on" in genloom("canary", "status", "digits").out
    twice = genloom("canary", "stop", "digits")
    assert (twice.code, "No canary of digits runs" in twice.err) == (2, True)
    assert "minutes 5, requests 50, share 0.2" in genloom("ledger", "show", "digits").out
    register(3, 30.0)
    refused = genloom("canary", "start", "digits")
    assert (refused.code, "digits/3 was refused as a canary" in refused.err) == (3, True)
    assert genloom("canary", "start", "digits", "--force").code == 2
    assert genloom("canary", "start", "digits", "--share", "0.9").code == 2
    assert genloom("shadow", "start", "digits").out.startswith(
        "digits/3 is asked, in secret, 10.0% beside digits/1."
    )


def test_a_version_is_shown_with_its_metrics_pictures_and_origin(register, genloom) -> None:
    register(1, 10.0)
    genloom("promote", "digits")
    for reference in ("digits/1", "digits@champion", "digits"):
        shown = json.loads(genloom("models", "show", reference, "--json").out)
        assert shown["version"] == "digits/1"
    assert shown["metrics"]["distance"]["value"] == 10.0
    assert Path(shown["pictures"][0]).read_bytes() == b"png"
    table = genloom("models", "show", "digits/1").out
    for cell in ("10 [9, 11]", "50 [49, 51]", "1 [0.5, 1.5]"):
        assert cell in table
    found = json.loads(genloom("models", "lineage", "digits/1", "--json").out)
    assert (found["run"], found["commit"], found["flow_run"]) == ("digits-vae", "0123", "flow-7")
    assert found["torch"] == torch.__version__
    assert [event["event"] for event in found["ledger"]] == ["promote"]
    assert "promote digits/1 (champion before: none), by" in genloom("models", "lineage", "digits").out
    said = genloom("models", "show", "digits/9")
    assert said.code == 2
    assert "no version digits/9" in said.err


def test_a_version_is_withdrawn_listed_as_such_and_restored(register, genloom) -> None:
    register(1, 10.0)
    genloom("promote", "digits")
    register(2, 8.0)
    genloom("promote", "digits")
    assert "say why" in genloom("models", "withdraw", "digits/2").err
    said = genloom("models", "withdraw", "digits/2", "--reason", "it repeats a face")
    assert said.code == 0, said.err
    assert said.out == "digits/2 is withdrawn: it repeats a face.\n  digits/1 is champion again.\n"
    again = genloom("models", "withdraw", "digits/2", "--reason", "another")
    assert (again.code, again.out) == (0, "digits/2 was withdrawn before (it repeats a face).\n")
    rows = json.loads(genloom("models", "list", "--json").out)
    assert [(row["version"], row["withdrawn"], row["aliases"]) for row in rows] == [
        ("digits/2", "it repeats a face", []),
        ("digits/1", None, ["challenger", "champion"]),
    ]
    assert "withdrawn" in genloom("models", "list").out
    shown = json.loads(genloom("models", "show", "digits/2", "--json").out)
    assert (shown["withdrawn"], shown["files"]) == ("it repeats a face", None)
    assert "revoke digits/2 (champion before: digits/2), by" in genloom("models", "lineage", "digits/2").out
    forced = genloom("promote", "digits", "--version", "2", "--force", "--why", "I want it")
    assert (forced.code, "returns only by genloom models restore" in forced.err) == (3, True)
    assert genloom("models", "export", "digits/2", "-o", "out").code == 2
    assert genloom("ledger", "verify").code == 0
    lifted = genloom("models", "restore", "digits/2", "--reason", "nobody's face")
    assert lifted.out.startswith("digits/2 may be used again; make it champion with genloom promote digits")
    assert "nothing was changed" in genloom("models", "restore", "digits/2", "--reason", "x").out
    for arguments, words in {
        ("withdraw",): "Name a version",
        ("withdraw", "digits/1", "--dataset", "digits"): "one of the two",
        ("withdraw", "digits/9"): "no version digits/9",
        ("withdraw", "digits@champion"): "name one version, such as digits/3",
        (
            "withdraw",
            "--dataset",
            "faces",
        ): "No version was trained on faces; versions were trained on: digits",
        ("withdraw", "--dataset", "digits@r"): "too short",
        ("restore", "digits/1", "--reason", " "): "say why",
    }.items():
        options = () if "--reason" in arguments else ("--reason", "x")
        wrong = genloom("models", *arguments, *options)
        assert (wrong.code, words in wrong.err) == (2, True), wrong
        assert wrong.err.count("\n") == 1


def test_versions_are_withdrawn_by_the_data_that_made_them(register, genloom) -> None:
    for seed, distance in ((1, 10.0), (2, 8.0)):
        register(seed, distance)
        genloom("promote", "digits")
    asked = genloom("models", "withdraw", "--dataset", "digits", "--reason", "a wrong licence")
    assert asked.code == 2
    assert "digits/2 (digits-vae, digits at r1, the champion)" in asked.err
    assert "These 2 versions would be withdrawn; add --yes" in asked.err
    done = genloom(
        "models", "withdraw", "--dataset", "digits", "--reason", "a wrong licence", "--yes", "--json"
    )
    assert [row["name"] for row in json.loads(done.out)] == ["digits/1", "digits/2"]
    shown = genloom("models", "show", "digits")
    assert (shown.code, "has no champion: digits/2 was withdrawn" in shown.err) == (2, True)
    events = json.loads(genloom("ledger", "show", "digits", "--json").out)
    assert [(event["event"], event["data"]) for event in events[2:]] == [("revoke", "digits@r1")] * 2
    genloom("models", "restore", "--dataset", "digits", "--reason", "it was right", "--yes")
    assert all(row["withdrawn"] is None for row in json.loads(genloom("models", "list", "--json").out))


def test_a_version_travels_with_its_hashes_and_its_origin(
    register, root: Path, genloom, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(1, 10.0)
    parcel = root / "parcel"
    assert genloom("models", "export", "digits/1", "--format", "genloom", "-o", parcel).code == 0
    assert "new or empty" in genloom("models", "export", "digits/1", "--format", "genloom", "-o", parcel).err
    assert (
        "there are: hf and genloom" in genloom("models", "export", "digits/1", "--format", "x", "-o", "y").err
    )
    same = genloom("models", "import", parcel)
    assert same.out.startswith(f"{parcel} is digits/1 already.")
    (root / "elsewhere").mkdir()
    shutil.copy(empty_store, root / "elsewhere")
    monkeypatch.setenv("GENLOOM_HOME", "elsewhere")
    report = parcel / "evaluation" / "report.json"
    whole = report.read_text()
    report.write_text(whole.replace("10.0", "1.0"))
    altered = genloom("models", "import", parcel)
    assert (altered.code, "report.json was altered since" in altered.err) == (2, True)
    report.write_text(whole)
    new = json.loads(genloom("models", "import", parcel, "--json").out)
    assert (new["version"], new["new"], new["origin"]["version"]) == ("digits/1", True, "digits/1")
    found = json.loads(genloom("models", "lineage", "digits/1", "--json").out)
    assert found["imported_from"]["digest"] == found["digest"]
    assert (found["commit"], found["parameters"]["model"]) == ("0123", {"latent": 2})
    assert genloom("promote", "digits").code == 0
    genloom("models", "withdraw", "digits/1", "--reason", "it repeats a face")
    back = genloom("models", "import", parcel)
    assert (back.code, "was withdrawn on" in back.err) == (2, True)
    assert "There is no folder" in genloom("models", "import", root / "nowhere").err


def test_a_product_that_needs_an_approval(register, root: Path, genloom) -> None:
    params = root / "params.yaml"
    params.write_text(
        params.read_text().replace(
            "digits: {dataset: digits}", "digits: {dataset: digits, approval: required}"
        )
    )
    register(1, 10.0)
    refused = genloom("promote", "digits")
    assert (refused.code, "digits/1 has none on record" in refused.err) == (3, True)
    assert genloom("models", "approve", "digits/1", "--by", "bo").out == "digits/1 is approved by bo.\n"
    assert (
        genloom("models", "approve", "digits/1", "--by", "bo").out == "digits/1 was approved by bo before.\n"
    )
    assert genloom("promote", "digits").code == 0
    assert "approved_by" in genloom("models", "show", "digits/1").out
    assert genloom("models", "live").out.startswith("No replica answers with anything now")
    assert json.loads(genloom("models", "live", "--json").out) == []
