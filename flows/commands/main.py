"""The entry of the command `genloom`: finds the verbs, and turns errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

import typer

from components.errors import UserError

MODULES = (
    "demo",
    "data",
    "families",
    "train",
    "evaluate",
    "retrain",
    "tune",
    "schedule",
    "runs",
    "models",
    "trials",
    "serve",
    "keys",
    "records",
    "labels",
    "jobs",
    "generate",
    "edit",
    "augment",
    "chat",
    "check",
    "ops",
    "doctor",
)
"""The modules of this folder that attach verbs, in the order of the help."""


INTERRUPTED, STOPPED = 130, "Stopped; the same command goes on from where it was."
"""The exit code after Ctrl-C, and what is said then."""
DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
}
"""What a disk or its permissions can say: a person's to mend, so a sentence and not a traceback."""


def application() -> typer.Typer:
    """The whole command line."""
    app = typer.Typer(
        name="genloom",
        help="From raw data to a served, labelled, revocable generative model.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for name in MODULES:
        importlib.import_module(f"flows.commands.{name}").attach(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong use, 3 refused by the gate."""
    from components.settings import quiet_environment

    quiet_environment()
    try:
        result = typer.main.get_command(application()).main(list(arguments), "genloom", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        return _say(STOPPED, code) if code == INTERRUPTED else code  # typer makes that of KeyboardInterrupt
    except UserError as error:
        return _say(str(error), error.exit_code)
    except typer.Exit as error:
        return error.exit_code
    except typer.TyperException as error:
        return _say(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        return _say(STOPPED, INTERRUPTED)
    except OSError as error:
        if error.errno not in DISK:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _say(f"{error.strerror}{where}; mend that and type the same command again.", 2)


def _say(sentence: str, code: int) -> int:
    print(f"genloom: {sentence}", file=sys.stderr)
    return code


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))
