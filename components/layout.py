"""The layout of GENLOOM_HOME: a number in the file `layout`, so that no release works in a home of a newer one."""

from __future__ import annotations

from pathlib import Path

from components import files
from components.errors import UserError

LAYOUT = 1
"""The layout that this release writes; a home from before there was a number has 0, and is read as it is."""
FILE = "layout"
STATE = ("mlflow.db", "runs", "ledger", "records", "sweeps", "jobs", "keys.json", "models")
"""What a home holds once something was done in it."""


def read_layout(home: Path) -> int:
    """The layout of the home; that of this release where there is none yet. Raises `UserError` for a damaged file."""
    path = home / FILE
    try:
        return int(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return 0 if any((home / name).exists() for name in STATE) else LAYOUT
    except ValueError as error:
        raise UserError(f"The file {path} holds no number; write {LAYOUT} into it.") from error


def check_layout(home: Path) -> None:
    """Raise `UserError` if the home is of a newer release."""
    found = read_layout(home)
    if found > LAYOUT:
        raise UserError(
            f"GENLOOM_HOME {home} has the layout {found} of a newer Genloom, and this one knows {LAYOUT}; install that "
            "one, as genloom ops migrate only leads to newer layouts, or restore a backup into another GENLOOM_HOME."
        )


def mark_new(home: Path) -> None:
    """Write the present layout into a home in which nothing was done yet."""
    if not (home / FILE).exists() and read_layout(home) == LAYOUT:
        write_layout(home)


def write_layout(home: Path) -> None:
    """Say that the home has the present layout."""
    files.write(home / FILE, f"{LAYOUT}\n")
