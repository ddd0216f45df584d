"""Folders that a person names, to which something is written for elsewhere."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from components import files
from components.errors import UserError


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A draft of the folder that somebody names to be written, which must be new or empty; see `files.draft`.

    Raises `UserError`, also where there is no room for what the block writes.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} is there already; name a folder that is new or empty.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.draft(path) as beside:
            beside.mkdir()
            yield beside
    except OSError as error:
        raise UserError(f"{path} cannot be written ({_cause(error)}); name a folder elsewhere.") from error


def _cause(error: OSError) -> str:
    """Why something cannot be written; of a copied tree, the first of the causes."""
    return str(error.args[0][0][-1]) if isinstance(error, shutil.Error) else error.strerror or str(error)
