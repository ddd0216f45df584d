"""serve.yaml is checked whole, and what is wrong is one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.cluster import Capacity
from components.errors import UserError
from components.project import open_project
from components.serving.applications import Application
from components.serving.catalog import Served
from components.serving.declared import ApplicationRow, Replicas, check_room, read_declaration
from components.terms import Terms
from flows.commands import main

GOOD = """
applications:
  pictures:
    models: {digits: champion, mnist: 3}
    replicas: 2
    cpus: 0.25
  words: {models: {shakespeare: champion}, replicas: {min: 0, max: 4, requests: 8, down: 60}}
  more: {models: {digits: 1}, path: /more/digits}
"""


def read(root: Path, text: str) -> Any:
    (root / "params.yaml").write_text(
        "datasets: {d: {source: digits}}\n"
        "products: {digits: {dataset: d}, mnist: {dataset: d}, shakespeare: {dataset: d}}\n",
        encoding="utf-8",
    )
    path = root / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return read_declaration(path, open_project(root))


def test_a_file_of_applications_with_defaults(tmp_path: Path) -> None:
    rows = read(tmp_path, GOOD)
    assert [(name, row.path) for name, row in rows.items()] == [
        ("pictures", "/"),
        ("words", "/words"),
        ("more", "/more/digits"),
    ]
    assert rows["pictures"].models == {"digits": "champion", "mnist": 3}
    assert rows["pictures"].replicas == Replicas(min=2, max=2)
    assert rows["pictures"].replicas.fixed
    assert rows["words"].replicas == Replicas(min=0, max=4, requests=8, down=60)
    assert str(rows["words"].replicas) == "0 to 4"
    assert rows["more"].cpus == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("applications: {}", "at least 1 item"),
        ("applications: [", "is not valid YAML"),
        ("{applications: {a: {models: {digits: 1}}}, application: 1}", "did you mean applications"),
        ("applications: {a: {models: {digts: champion}}}", "did you mean digits"),
        ("applications: {a: {models: {}}}", "at least 1 item"),
        ("applications: {a: {replicas: 1}}", "the field applications.a.models is missing"),
        ("applications: {a: {models: {digits: newest}}}", "'newest': give champion, which is followed, or"),
        ("applications: {a: {models: {digits: 0}}}", "is 0: give champion"),
        ("applications: {a: {models: {digits: true}}}", "is True: give champion"),
        ("applications: {a: {models: {digits: 1}, replica: 1}}", "did you mean replicas"),
        ("applications: {a: {models: {digits: 1}, gpu: 1}}", "There is no field “gpu”"),
        (
            "applications: {a: {models: {digits: 1}, replicas: many}}",
            "is 'many': give a number, or min and max",
        ),
        ("applications: {a: {models: {digits: 1}, replicas: {min: 3, max: 2}}}", "min 3 is more than max 2"),
        ("applications: {a: {models: {digits: 1}, replicas: {most: 2}}}", "There is no field “most”"),
        ("applications: {a: {models: {digits: 1}, replicas: 0}}", "replicas.max is 0"),
        ("applications: {a: {models: {digits: 1}, cpus: -1}}", "cpus is -1"),
        ("applications: {a: {models: {digits: 1}, cpus: .inf}}", "cpus is inf"),
        ("applications: {a: {models: {digits: 1}, gpus: -1}}", "gpus is -1"),
        (
            "applications: {a: {models: {digits: 1}, gpus: 1.5}}",
            "gpus is 1.5: it is neither a part of one GPU",
        ),
        ("applications: {a: {models: {digits: 1}, path: words}}", "“words” must be / or such as /words"),
        ("applications: {a: {models: {digits: 1}, path: /words/}}", "must be / or such as /words"),
        ("applications: {a: {models: {digits: 1}, path: /v1}}", "would hide the routes /v1"),
        ("applications: {A: {models: {digits: 1}}}", "the name must be small letters"),
        ("applications: {genloom: {models: {digits: 1}}}", "is that of genloom serve PRODUCT"),
        (
            "applications: {a: {models: {digits: 1}}, b: {models: {mnist: 1}, path: /}}",
            "b has the path / too; give one of them another",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as wrong:
        read(tmp_path, text)
    assert said in str(wrong.value)
    assert "serve.yaml" in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_more_cpus_than_there_are_are_refused_with_the_arithmetic() -> None:
    rows = {
        "pictures": ApplicationRow.model_validate({"models": {"digits": 1}, "replicas": 2, "cpus": 0.5}),
        "words": ApplicationRow.model_validate({"models": {"shakespeare": 1}, "replicas": 9}),
    }
    check_room(rows, Capacity(cpus=1.5, gpus=0), "serve.yaml")
    with pytest.raises(
        UserError, match=r"2 × 0\.5 \(pictures\) \+ 0\.5 .* = 1\.5 CPUs, and there are 1; lower"
    ):
        check_room(rows, Capacity(cpus=1, gpus=0), "serve.yaml")


def test_more_gpus_than_there_are_are_refused_with_the_arithmetic() -> None:
    rows = {
        "pictures": ApplicationRow.model_validate({"models": {"digits": 1}, "replicas": 2, "gpus": 0.25}),
        "words": ApplicationRow.model_validate({"models": {"shakespeare": 1}, "gpus": 1}),
    }
    check_room(rows, Capacity(cpus=0, gpus=3), "serve.yaml")
    with pytest.raises(
        UserError,
        match=r"2 × 0\.25 \(pictures\) \+ 1 × 1 \(words\) \+ 1 .* = 3 GPUs, as a part is one GPU's, and there are 2; "
        "lower gpus or replicas",
    ):
        check_room(rows, Capacity(cpus=8, gpus=2), "serve.yaml")


@pytest.mark.parametrize(("each", "replicas", "needed"), [(0.6, 2, 3), (0.5, 2, 2), (0.5, 1, 1), (2, 1, 4)])
def test_a_part_of_a_gpu_is_of_one(each: float, replicas: int, needed: int) -> None:
    asked = {"models": {"digits": 1}, "replicas": replicas, "gpus": each}
    rows = {"pictures": ApplicationRow.model_validate(asked)}
    check_room(rows, Capacity(cpus=1, gpus=needed), "serve.yaml")
    with pytest.raises(UserError, match=f"= {needed} GPUs"):
        check_room(rows, Capacity(cpus=1, gpus=needed - 1), "serve.yaml")


def test_check_and_serve_read_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read(tmp_path, "applications: {a: {models: {digits: champion}}}")
    monkeypatch.chdir(tmp_path)
    assert main.run(["check"]) == 0
    assert "serve.yaml: ok, 1 applications" in capfd.readouterr().out
    (tmp_path / "serve.yaml").write_text(
        "applications: {a: {models: {digits: champion}, replicas: 999, cpus: 8}}", encoding="utf-8"
    )
    for arguments, said in (
        (["check"], "999 × 8 (a) + 8 (a new version beside the old) = 8000 CPUs"),
        (["serve"], "999 × 8 (a) + 8 (a new version beside the old) = 8000 CPUs"),
        (["serve", "--replicas", "2"], "leave --version, --replicas and --gpus out"),
        (["serve", "--gpus", "0.5"], "leave --version, --replicas and --gpus out"),
        (["serve", "digits", "--gpus", "1.5"], "gpus is 1.5: it is neither a part of one GPU"),
        (["serve", "digits", "--gpus", "99", "--replicas", "2"], "2 × 99 (genloom) + 99 (a new version"),
        (["serve", "digits", "--file", "serve.yaml"], "one of the two"),
        (["serve", "--file", "other.yaml"], "There is no file other.yaml"),
    ):
        assert main.run(arguments) == 2
        error = capfd.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_an_application_changes_with_what_it_serves_and_its_terms_and_not_with_the_champion(
    tmp_path: Path,
) -> None:
    served = Served("digits", 1, tmp_path, 0, follows=True)
    before = Application("a", "/", (served,))
    assert Application("b", "/", (replace(served, version=2, created=9),)).same(before)
    assert not Application("a", "/", (replace(served, follows=False),)).same(before)
    assert not Application("a", "/", (replace(served, terms=Terms("full")),)).same(before)
    assert not Application("a", "/", (replace(served, terms=Terms(words=("darn",))),)).same(before)
    assert not Application("a", "/", (served,), cpus=0.5).same(before)
    assert not Application("a", "/", (served,), gpus=0.5).same(before)
    assert not before.same(None)
