"""The best settings become a run of their own: a row of `params.yaml`, whose comments stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from components.data.add import one_writer, replace_tables
from components.errors import UserError
from components.project import Project, check_name
from components.tuning.space import Settings


def check_new(project: Project, name: str) -> None:
    """Raise `UserError` if a new run cannot have this name."""
    check_name(name)
    if name in project.tables.runs:
        raise UserError(f"There is already a run “{name}” in params.yaml; give --write another name.")


def write_row(project: Project, name: str, run: str, overrides: Sequence[str], settings: Settings) -> None:
    """Add the run `name`: the row of `run` with its `overrides` and the `settings` of a trial.

    The file is replaced atomically, and checked before. Raises `UserError` if the name is taken.
    """
    path = project.root / "params.yaml"
    check_new(project, name)
    changed = _changed(project, run, overrides)
    changed["model"] |= dict(settings)
    with one_writer(project):
        yaml = YAML()
        yaml.preserve_quotes = True
        tables = yaml.load(path.read_text(encoding="utf-8"))
        if name in tables["runs"]:
            raise UserError(f"There is already a run “{name}” in params.yaml; give --write another name.")
        if run not in tables["runs"]:
            raise UserError(
                f"The run “{run}” is no longer in params.yaml; put it back and type the command again."
            )
        row = tables["runs"][run]
        new: dict[str, Any] = {"product": row["product"], "family": row["family"]}
        for table in ("model", "train"):
            if content := {**(row.get(table) or {}), **changed[table]}:
                new[table] = _on_one_line(content)
        if init := changed["init"].get("init", row.get("init")):
            new["init"] = init
        tables["runs"][name] = new
        replace_tables(path, tables)


def _changed(project: Project, run: str, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The fields that `overrides` set, by table, with their values as they are read."""
    row = project.run(run, overrides)
    content = row.model_dump(mode="python")
    found: dict[str, dict[str, Any]] = {"model": {}, "train": {}, "init": {}}
    for assignment in overrides:
        table, _, field = assignment.partition("=")[0].partition(".")
        found[table][field or table] = content[table][field] if field else content[table]
    return found


def _on_one_line(content: Mapping[str, Any]) -> CommentedMap:
    flow = CommentedMap(content)
    flow.fa.set_flow_style()
    return flow
