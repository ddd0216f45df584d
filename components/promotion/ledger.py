"""The truth about promotion: one append-only file of JSON lines a product, chained by sha256."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from components.errors import FailedError, UserError
from components.settings import Settings

Event = Literal[
    "promote",
    "refuse",
    "rollback",
    "canary",
    "shadow",
    "withdraw",  # a trial failed
    "stop",
    "revoke",  # nobody may use the version
    "restore",
    "purge",
    "approve",
]
MOVES = frozenset({"promote", "rollback"})
"""The events that make a version champion; each ends a trial that runs."""
OPTIONAL = ("terms", "data", "by")
"""Fields that a line has only where they say something; those of old ledgers had none."""
TRIALS = frozenset({"canary", "shadow"})
"""The events that begin a trial of a version beside the champion."""
PATIENCE = 600.0
"""Seconds to wait for another process that holds a product's lock."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was decided about a version: `champion` is the one before, `reasons` are the gate's.

    `terms` are those of a trial that begins: numbers by name. `data` is the dataset's revision for which a version is
    revoked, such as digits@3f2a…; `by` is who approved a version.
    """

    event: Event
    product: str
    version: int
    digest: str
    champion: int | None
    reasons: tuple[str, ...]
    who: str
    why: str = ""
    flow_run: str = ""
    terms: Mapping[str, float] = field(default_factory=dict, hash=False)
    data: str = ""
    by: str = ""


@dataclass(frozen=True, kw_only=True)
class Line(Entry):
    """An entry as it stands in the file; `hash` covers all other fields, `previous` is the line before's."""

    time: str
    previous: str
    hash: str


@dataclass(frozen=True)
class Standing:
    """What the lines add up to.

    `champions` are (number, digest), the present one last, with those before it that no rollback undid;
    `ever` are all that were champion once; `rolled_back` were left by a rollback, with its line, and `withdrawn`
    failed on trial, and were not promoted since. `trial` is the line that began the canary or shadow which runs now.
    `revoked` may not be used by anybody, and the weights of those that are `purged` are gone; `approved` are those
    that somebody has approved.
    """

    champions: tuple[tuple[int, str], ...] = ()
    ever: frozenset[int] = frozenset()
    rolled_back: Mapping[int, Line] = field(default_factory=dict)
    withdrawn: frozenset[int] = frozenset()
    trial: Line | None = None
    revoked: Mapping[int, Line] = field(default_factory=dict)
    purged: frozenset[int] = frozenset()
    approved: Mapping[int, Line] = field(default_factory=dict)

    @property
    def champion(self) -> int | None:
        """The number of the present champion."""
        return self.champions[-1][0] if self.champions else None


def path_of(settings: Settings, product: str) -> Path:
    """Where the ledger of a product is."""
    return settings.shared / "ledger" / f"{product}.jsonl"


def products(settings: Settings) -> list[str]:
    """The products that have a ledger."""
    return sorted(path.stem for path in (settings.shared / "ledger").glob("*.jsonl"))


@contextmanager
def locked(settings: Settings, name: str) -> Iterator[None]:
    """Hold the lock `name` among all processes that share the folder; raises `UserError` after ten minutes."""
    path = settings.shared / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=PATIENCE):
            yield
    except Timeout as error:
        raise UserError(
            f"Another process holds {path} for more than {PATIENCE:.0f} s; end it and repeat the command."
        ) from error


def who() -> str:
    """The name of the user of this process, or their number where it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def append(path: Path, entry: Entry) -> Line:
    """Write `entry` as the last line and wait until it is on the disk; the caller holds the lock.

    What a crash left of an unfinished line is moved to a file beside it. Raises `FailedError` if the chain is broken.
    """
    lines = read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _set_aside(path)
    content = dataclasses.asdict(entry)
    for name in ("who", "why", "by"):  # of a terminal that speaks no UTF-8
        content[name] = content[name].encode("utf-8", "backslashreplace").decode()
    content = {name: value for name, value in content.items() if value or name not in OPTIONAL}
    content["time"] = datetime.now(UTC).isoformat(timespec="milliseconds")
    content["previous"] = lines[-1].hash if lines else ""
    content["hash"] = _hash(content)
    with path.open("ab") as stream:
        stream.write(_canonical(content) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return _line(content)


def read(path: Path) -> list[Line]:
    """All whole lines, the oldest first; raises `FailedError` that names the first that breaks the chain."""
    lines: list[Line] = []
    for number, text in enumerate(_split(path)[0], start=1):
        try:
            content = json.loads(text)
            line = _line(content)
            sound = content["hash"] == _hash(content)
        except (ValueError, KeyError, TypeError):
            raise _broken(path, number, "is not readable") from None
        if not sound:
            raise _broken(path, number, "was altered")
        if line.previous != (lines[-1].hash if lines else ""):
            raise _broken(path, number, "does not follow the line before it")
        lines.append(line)
    return lines


def verify(path: Path) -> int:
    """Check the whole chain and return the number of lines.

    Raises `FailedError` that names the first broken line; a last line that a crash cut off is one.
    """
    lines = read(path)
    if _split(path)[1]:
        raise FailedError(
            f"Line {len(lines) + 1} of {path} was cut off while it was written, so it counts for nothing; "
            "the next promotion sets it aside."
        )
    return len(lines)


def last_move(lines: Sequence[Line]) -> str:
    """The hash of the line that made the present champion so; nothing if there is none."""
    return next((line.hash for line in reversed(lines) if moves(line)), "")


def moves(line: Line) -> bool:
    """Whether the line gave the product another champion; one that is revoked gives way to the one before it."""
    return line.event in MOVES or (line.event == "revoke" and line.version == line.champion)


def standing(lines: Iterable[Line]) -> Standing:
    """Replay `lines`: a promotion adds a champion, a rollback returns to an earlier one; both end a trial."""
    replay = _Replay()
    for line in lines:
        replay.take(line)
    return Standing(
        champions=tuple(replay.champions),
        ever=frozenset(replay.ever),
        rolled_back=replay.left,
        withdrawn=frozenset(replay.withdrawn),
        trial=replay.trial,
        revoked=replay.revoked,
        purged=frozenset(replay.purged),
        approved=replay.approved,
    )


class _Replay:
    """What the lines so far add up to; see `Standing`."""

    def __init__(self) -> None:
        self.champions: list[tuple[int, str]] = []
        self.ever: set[int] = set()
        self.left: dict[int, Line] = {}
        self.withdrawn: set[int] = set()
        self.trial: Line | None = None
        self.revoked: dict[int, Line] = {}
        self.purged: set[int] = set()
        self.approved: dict[int, Line] = {}

    def take(self, line: Line) -> None:
        """Add one line."""
        match line.event:
            case "promote" | "rollback":
                self._move(line)
            case "canary" | "shadow":
                self.trial = line
            case "withdraw" | "stop":
                self.trial = None
                self.withdrawn |= {line.version} if line.event == "withdraw" else set()
            case "revoke":
                self._revoke(line)
            case "restore":
                self._restore(line)
            case "purge":
                self.purged.add(line.version)
            case "approve":
                self.approved[line.version] = line

    def _move(self, line: Line) -> None:
        """Make another version champion; those that a rollback leaves go to `left`."""
        target = (line.version, line.digest)
        if line.event == "rollback" and target in self.champions:
            while self.champions[-1] != target:
                self.left[self.champions.pop()[0]] = line
        else:
            self.champions.append(target)
        self.trial = None
        self.ever.add(line.version)
        self.left.pop(line.version, None)
        self.withdrawn.discard(line.version)

    def _revoke(self, line: Line) -> None:
        """Take a version from everywhere; who is champion twice in a row by that is so once."""
        self.revoked[line.version] = line
        self.approved.pop(line.version, None)
        kept = [one for one in self.champions if one[0] != line.version]
        self.champions = [one for place, one in enumerate(kept) if place == 0 or kept[place - 1] != one]
        if self.trial is not None and line.version in (self.trial.version, self.trial.champion):
            self.trial = None

    def _restore(self, line: Line) -> None:
        """Let a version be used again; of one without weights, the data that it was trained on."""
        known = self.revoked.pop(line.version, None)
        if known is not None and line.version in self.purged:
            self.revoked[line.version] = dataclasses.replace(known, data="")


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """The whole lines, and what follows the last newline."""
    if not path.is_file():
        return [], b""
    *whole, rest = path.read_bytes().split(b"\n")
    return whole, rest


def _set_aside(path: Path) -> None:
    """Move an unfinished last line, which nobody acted upon, to a file beside the ledger."""
    rest = _split(path)[1]
    if not rest:
        return
    with path.with_suffix(".torn").open("ab") as stream:
        stream.write(rest + b"\n")
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - len(rest))
        os.fsync(stream.fileno())


def _line(content: Mapping[str, Any]) -> Line:
    names = [item.name for item in dataclasses.fields(Line)]
    fields = {name: content[name] for name in names if name not in OPTIONAL or name in content}
    return Line(**{**fields, "reasons": tuple(fields["reasons"])})


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({k: v for k, v in content.items() if k != "hash"})).hexdigest()


def _broken(path: Path, number: int, fault: str) -> FailedError:
    return FailedError(
        f"Line {number} of {path} {fault}, so nothing from there on can be trusted; "
        "restore the file from a backup."
    )
