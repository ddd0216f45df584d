"""The errors that a person sees: one sentence that names the thing, the cause and the mend."""

import difflib
from collections.abc import Iterable

SHOWN = 80
"""Characters of an unknown name that an error repeats."""


class UserError(Exception):
    """Wrong use or bad input; the command ends with exit code 2, an endpoint with HTTP 4xx."""

    exit_code = 2


class RefusedError(UserError):
    """The gate said no to an explicit promotion; exit code 3."""

    exit_code = 3


class WithdrawnError(UserError):
    """A version that was withdrawn may not be used; HTTP 503."""


class FailedError(UserError):
    """The work itself failed for a reason that can be named (a loss that is not finite); exit code 1."""

    exit_code = 1


def shortened(name: str) -> str:
    """`name`, cut where it is too long to be read."""
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def unknown(thing: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not there, with the nearest ones that are."""
    names, name = sorted(known), shortened(name)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return UserError(f"There is no {thing} “{name}”; did you mean {' or '.join(near)}?")
    listed = ", ".join(names) if names else "none yet"
    return UserError(f"There is no {thing} “{name}”; there are: {listed}.")
