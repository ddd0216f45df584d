"""Absolute paths inside of a project's state, corrected for the place where it is now."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from components import files
from components.errors import FailedError
from components.serving.jobs import JOB
from components.tracking import artifacts, rewrite


def move_run_log(database: Path, before: Path, after: Path) -> None:
    """Have MLflow's database name the artifacts below the home `after`, where they were below `before`."""
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            rewrite(connection, f"{artifacts(before)}/", f"{artifacts(after)}/")
    except sqlite3.OperationalError as error:
        raise FailedError(
            f"The paths in {database} cannot be corrected ({error}); restore another backup."
        ) from error


def move_jobs(folder: Path, before: Path, after: Path) -> None:
    """Have bulk jobs name their models below the home `after`, where they were below `before`."""
    for path in folder.glob(f"*/{JOB}"):
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        old = Path(content["artifact"])
        if old.is_relative_to(before):
            new = after / old.relative_to(before)
            files.write(path, json.dumps({**content, "artifact": str(new)}, indent=2))
