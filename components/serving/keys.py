"""API keys: made here, shown once, kept as hashes in one file that every replica reads again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from components import files
from components.errors import UserError, unknown
from components.settings import Settings, writable_home

Scope = Literal["generate", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""What a key may do: ask models; read metrics and see all jobs."""
SECRET = re.compile(r"gl-([0-9a-f]{8})-([A-Za-z0-9_-]{43})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,62}")
NOBODY = hashlib.sha256(b"").hexdigest()
"""What the hash of an unknown key is compared with, so that it takes as long as that of a known one."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """What is kept of a key: `digest` is the sha256 of its secret, `revoked` the time at which it ended.

    `rate` is requests a minute, `concurrency` requests at once, of each replica; None is no limit. Times are
    seconds since the epoch. The secret has 256 random bits, so a plain hash cannot be searched.
    """

    id: str
    name: str
    digest: str
    created: float
    scopes: tuple[Scope, ...] = ("generate",)
    rate: int | None = None
    concurrency: int | None = None
    revoked: float | None = None

    def public(self) -> dict[str, Any]:
        """All but the hash."""
        return {name: value for name, value in asdict(self).items() if name != "digest"}


@dataclass
class Keyring:
    """The keys of a project in the file at `path`; reading costs one `stat` while nothing has changed."""

    path: Path
    _read: tuple[int, int, int] | None = None
    _keys: dict[str, Key] = field(default_factory=dict)

    def create(
        self,
        name: str,
        scopes: Iterable[str] = ("generate",),
        rate: int | None = None,
        concurrency: int | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, which is nowhere else. Raises `UserError` for a bad name, scope or limit."""
        if not NAME.fullmatch(name):
            raise UserError(
                f"“{name}” is no good name of a key; use letters, digits, spaces and . _ @ -, at most 63."
            )
        asked: tuple[Scope, ...] = tuple(_scope(scope) for scope in dict.fromkeys(scopes))
        for what, limit in {"rate": rate, "concurrency": concurrency}.items():
            if limit is not None and limit < 1:
                raise UserError(f"The {what} of a key is at least 1, not {limit}; leave it out for no limit.")
        own = secrets.token_hex(4)
        secret = f"gl-{own}-{secrets.token_urlsafe(32)}"
        key = Key(
            id=own,
            name=name,
            digest=_digest(secret),
            created=time.time(),
            scopes=asked,
            rate=rate,
            concurrency=concurrency,
        )
        with self._locked():
            keys = self.keys()
            if any(other.name == name and other.revoked is None for other in keys.values()):
                raise UserError(f"There is already a key “{name}”; revoke it first, or choose another name.")
            self._write({**keys, own: key})
        return key, secret

    def keys(self) -> dict[str, Key]:
        """All keys by id, the revoked ones too; raises `UserError` if the file is damaged."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._read, self._keys = None, {}
            return self._keys
        except OSError as error:
            raise UserError(f"The file of keys, {self.path}, cannot be read ({error.strerror}).") from error
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._read:
            self._keys, self._read = _parse(self.path), seen
        return self._keys

    def revoke(self, wanted: str) -> Key:
        """End the key of that id or name; ending it again changes nothing. Raises `UserError` if there is none."""
        with self._locked():
            keys = self.keys()
            open_first = sorted(keys.values(), key=lambda key: (key.revoked is not None, key.created))
            found = next((key for key in open_first if wanted in (key.id, key.name)), None)
            if found is None:
                raise unknown("key", wanted, [key.name for key in keys.values()])
            if found.revoked is None:
                found = replace(found, revoked=time.time())
                self._write({**keys, found.id: found})
        return found

    def holder(self, secret: str) -> Key | None:
        """The key that this secret opens, unless it is revoked; the comparison takes the same time for all."""
        shape = SECRET.fullmatch(secret)
        key = self.keys().get(shape.group(1)) if shape else None
        same = hmac.compare_digest(_digest(secret), key.digest if key else NOBODY)
        return key if key is not None and same and key.revoked is None else None

    def _locked(self) -> FileLock:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"))

    def _write(self, keys: dict[str, Key]) -> None:
        content = json.dumps([asdict(key) for key in keys.values()], indent=2)
        files.write(self.path, content, mode=0o600, sync=True)


def keyring(settings: Settings) -> Keyring:
    """The project's keys, which all nodes of a cluster see."""
    return Keyring(settings.shared / "keys.json")


def writable_keyring(settings: Settings) -> Keyring:
    """The project's keys, to be changed; raises `UserError` if the folder cannot be written."""
    writable_home(settings)
    return keyring(settings)


def _scope(name: str) -> Scope:
    for scope in SCOPES:
        if scope == name:
            return scope
    raise unknown("scope", name, SCOPES)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _parse(path: Path) -> dict[str, Key]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        keys = [Key(**{**row, "scopes": tuple(map(_scope, row["scopes"]))}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"The file of keys, {path}, cannot be read; restore it from a backup.") from error
    return {key.id: key for key in keys}
