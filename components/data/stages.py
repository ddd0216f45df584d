"""DVC as Genloom uses it: one stage a dataset, run by a subprocess, its progress and errors handed on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from filelock import FileLock
from pydantic import BaseModel

from components.data.dataset import Dataset, open_dataset
from components.data.example import Progress, legible
from components.errors import FailedError, UserError
from components.image_rows import UnpairedRow
from components.project import Project
from components.rows import OwnRow
from components.settings import expanded, writable_home
from components.tables import read_yaml, validate

CODE = {
    "digits": ("pictures", "reading", "conditioned", "sources"),
    "idx": ("pictures", "reading", "conditioned", "sources"),
    "folder": ("pictures", "reading", "conditioned", "folder", "layout", "images", "paired", "trees"),
    "archive": (
        "pictures",
        "reading",
        "conditioned",
        "archive",
        "folder",
        "layout",
        "images",
        "paired",
        "trees",
    ),
    "parquet": ("pictures", "reading", "conditioned", "parquet", "images"),
    "unpaired": ("pictures", "reading", "conditioned", "unpaired", "images"),
    "plucks": ("recordings", "reading", "plucks", "sound"),
    "recordings": ("recordings", "reading", "archive", "layout", "sound", "trees"),
    "counterpoint": ("music", "scores", "counterpoint", "encoding", "packing"),
    "chorales": ("music", "scores", "encoding", "packing"),
    "midi": ("music", "scores", "archive", "trees", "encoding", "packing"),
    "nci": ("molecules", "molecule_files", "reading", "documents", "texts"),
    "molecules": ("molecules", "molecule_files", "reading", "documents", "texts"),
    "stdlib": ("text", "documents", "encoding", "packing", "records", "stdlib", "texts"),
    "text": ("text", "documents", "encoding", "packing", "records", "single", "texts"),
    "statsmodels": ("series", "tables"),
    "series": ("series", "tables"),
}
"""The modules beside prepare, report, spool and example that decide what a source becomes.

Modules of modalities that decide too are in `READING`. modalities/image.py is left out although it gives the
schema and the preview: nearly all of it serves requests, and each change of it would prepare all data again; so are
modalities/text.py and modalities/tokenizer.py. Whoever changes `schema` or `train_tokenizer` there prepares with
--force.
"""
READING = (
    ("images", "decoding"),
    ("plucks", "strings"),
    ("music", "notation"),
    ("music", "score"),
    ("scores", "midi"),
    ("series", "binning"),
    ("series", "tables"),
    ("molecules", "chemistry"),
    ("molecules", "smiles"),
)
"""Modules of modalities that decide it as well, each beside a module of data."""
PROGRESS = re.compile(r"(.+): (\d+)/(\d+)")


class Lines:
    """Progress as lines for the process that reads them, at most two a second; on a terminal, one line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._end = "\r" if stream.isatty() else "\n"
        self._last = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` is done of `what`."""
        now = time.monotonic()
        if done >= total or now - self._last >= 0.5:
            self._last = now
            print(
                f"{what}: {done}/{total}",
                end="\n" if done >= total else self._end,
                file=self._stream,
                flush=True,
            )


def stage_name(dataset: str) -> str:
    """The name of a dataset's stage in `dvc.yaml`."""
    return f"prepare-{dataset}"


def ensure_workspace(project: Project) -> None:
    """Make the project a DVC workspace, unless it is one or lies in one."""
    above = (project.root, *project.root.parents)
    if any((folder / ".dvc").is_dir() for folder in above):
        return
    if (project.root / ".git").exists():
        how = []
    else:
        how = ["--subdir"] if any((folder / ".git").exists() for folder in above) else ["--no-scm"]
    run_dvc(project, ["init", *how])


def ensure_stage(project: Project, name: str) -> None:
    """Write the stage of a dataset into `dvc.yaml`, unless one is there that depends on all that it should."""
    wanted = _dependencies(project, name)
    rows = {f"datasets.{row}" for row in rows_of(project, name)}
    stage = (_read(project, "dvc.yaml", Pipeline).stages or {}).get(stage_name(name)) or Stage()
    written = {path for dependency in stage.deps for path in _paths(dependency)}
    if wanted <= written and rows <= {str(parameter) for parameter in stage.params}:
        return
    options = [option for path in sorted(wanted) for option in ("-d", path)]
    options += [option for row in sorted(rows) for option in ("-p", row)]
    out = (project.prepared / name).relative_to(project.root).as_posix()
    # the output persists while the stage runs: what was prepared stays until the new data replaces it
    options += ["--outs-persist", out]
    command = f"python -m components.data.prepare {name}"
    run_dvc(project, ["stage", "add", "--force", "-n", stage_name(name), *options, command])


def repro(project: Project, names: Sequence[str], force: bool, progress: Progress) -> None:
    """Run the stages of the datasets that are not up to date (or all, by `force`)."""
    options = ["--force"] if force else []
    run_dvc(project, ["repro", *options, *map(stage_name, names)], progress)


def checkout(project: Project, name: str) -> Dataset:
    """Put back the prepared data that `dvc.lock` names, from DVC's cache; raises `UserError` if it is not there."""
    project.dataset(name)
    folder = project.prepared / name
    if stage_name(name) not in (_read(project, "dvc.lock", Locked).stages or {}):
        raise UserError(f"“{name}” was never prepared here; type genloom data prepare {name}.")
    run_dvc(project, ["checkout", "--force", folder.relative_to(project.root).as_posix()])
    return open_dataset(folder)


def run_dvc(project: Project, arguments: Sequence[str], progress: Progress | None = None) -> None:
    """Run `dvc` in the project; raises the `UserError` that a stage printed, or `FailedError` with DVC's words."""
    lines: list[str] = []
    lock = FileLock(writable_home(project.settings) / ".dvc-lock")  # DVC refuses to run a stage beside itself
    with (
        lock,
        _ended_by_sigterm(),
        subprocess.Popen(
            [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments],
            cwd=project.root,
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                found = PROGRESS.fullmatch(line.strip())
                if not found:
                    lines.append(line.rstrip())
                elif progress is not None:
                    progress(found[1], int(found[2]), int(found[3]))
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)  # DVC and the stage that it runs
            process.communicate()  # until both have gone
            raise
    if process.returncode != 0:
        raise _failure(arguments[0], lines)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM end the block by an exception, as Ctrl-C does, so that what it started is ended as well.

    Elsewhere than in the main thread, and where somebody else has a way of taking the signal, that stays.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _failure(verb: str, lines: Sequence[str]) -> UserError:
    """The sentence for people in the output of a failed command."""
    ours = [line for line in lines if line.startswith("genloom: ")]
    if ours:
        return UserError(ours[-1].removeprefix("genloom: "))
    if any(line.startswith("Traceback") for line in lines):
        print("\n".join(lines), file=sys.stderr)  # a bug in the stage, not wrong use
    first = next((place for place, line in enumerate(lines) if line.startswith("ERROR: ")), len(lines) - 1)
    said = [
        line.removeprefix("ERROR: ") for line in lines[max(first, 0) :] if line and "https://" not in line
    ]
    return FailedError(f"dvc {verb} failed: {' '.join(said).rstrip('.')}; mend it and repeat the command.")


def _environment() -> dict[str, str]:
    """The environment of DVC: stages find this interpreter as `python`; CI switches off its search for updates."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1", "CI": "1"}


class Stage(BaseModel):
    """What is looked at of a stage in `dvc.yaml`."""

    deps: list[str | dict[str, Any]] = []
    params: list[str | dict[str, Any]] = []


class Pipeline(BaseModel):
    """What is looked at of `dvc.yaml`."""

    stages: dict[str, Stage] | None = None


class Locked(BaseModel):
    """What is looked at of `dvc.lock`."""

    stages: dict[str, Any] | None = None


Content = TypeVar("Content", bound=BaseModel)


def _read(project: Project, name: str, kind: type[Content]) -> Content:
    """One of DVC's files, empty where there is none; `UserError` for one that DVC would not take."""
    path = project.root / name
    content = read_yaml(path) if path.is_file() else None
    return validate(kind, {} if content is None else content, str(path), lambda _: ())


def _paths(dependency: str | Mapping[str, Any]) -> list[str]:
    """The path of a dependency in `dvc.yaml`, which may have options below it."""
    return [dependency] if isinstance(dependency, str) else list(dependency)


def rows_of(project: Project, name: str) -> list[str]:
    """The datasets whose rows and files decide the prepared data: its own and, of two domains, theirs."""
    row = project.dataset(name)
    return [name, row.target, row.origin] if isinstance(row, UnpairedRow) else [name]


def _dependencies(project: Project, name: str) -> set[str]:
    """What decides the prepared data: the source's files, and the code if it stands in the project."""
    rows = [project.dataset(one) for one in rows_of(project, name)]
    modules = {"prepare", "report", "spool", "example"}.union(*(CODE[row.source] for row in rows))
    code = {f"components/data/{module}.py" for module in modules}
    code |= {f"components/modalities/{name}.py" for own, name in READING if own in modules}
    found = {path for path in code if (project.root / path).is_file()}
    for row in rows:
        if isinstance(row, OwnRow) and row.path is not None:
            check_path(row.path)
            place = expanded(row.path, "A path in params.yaml")  # DVC knows no ~
            _check_names(project.root / place)
            inside = place.is_relative_to(project.root)
            found.add((place.relative_to(project.root) if inside else place).as_posix())
    return found


def _check_names(folder: Path) -> None:
    """Raise `UserError` for the first thing below `folder` that DVC cannot write into its list of the folder."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place) / name
            if legible(name) != name:
                raise UserError(
                    f"The name of {legible(str(path))} is no Unicode, and DVC cannot note it; rename the file."
                )
            if not path.exists():
                raise UserError(
                    f"{path} is a link that leads nowhere, and DVC cannot note it; remove the link."
                )


def check_path(path: str) -> None:
    """Raise `UserError` for a path that `dvc.yaml` cannot hold: DVC takes `${` for the start of a variable."""
    if "${" in path or legible(path) != path:
        raise UserError(
            f"The path {legible(path)} has “${{” or a character that is no Unicode in it; rename the folder."
        )
