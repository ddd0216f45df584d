"""Bytes that a URL and a hash name: from a mirror folder if one holds them, else downloaded once."""

from __future__ import annotations

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import httpx

from components.data.dataset import file_hash
from components.data.example import Progress
from components.errors import UserError
from components.row import RemoteFile
from components.settings import Settings

PIECE = 2**20


def fetch(file: RemoteFile, settings: Settings, progress: Progress) -> Path:
    """A file whose content, unpacked, has the hash that `file` names; raises `UserError`.

    Looked for in `home`/downloads, then by name anywhere in the mirror folders, then at the URL.
    """
    downloads = settings.home / "downloads"
    kept = downloads / file.sha256
    if kept.is_file() and file_hash(kept) == file.sha256:
        return kept
    downloads.mkdir(parents=True, exist_ok=True)
    name = _name(file.url)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".draft-") as folder:
        content = Path(folder) / "content"
        for candidate in _candidates(name, settings.mirrors):
            if _unpack(candidate, content) == file.sha256:
                return content.replace(kept)
        if file.url.startswith("mirror:"):
            raise UserError(
                f"No folder of GENLOOM_MIRROR holds a {name} whose content has the sha256 {file.sha256}, and no "
                "address serves it; docs/data.md says where it comes from."
            )
        packed = Path(folder) / "packed"
        _download(file.url, packed, progress)
        found = _unpack(packed, content)
        if found != file.sha256:
            raise UserError(
                f"The content of {file.url} has the sha256 {found}, not {file.sha256} as params.yaml says, "
                "and was not kept; check the address, or correct the hash if you trust the new content."
            )
        return content.replace(kept)


def _name(url: str) -> str:
    return url.removeprefix("mirror:").partition("?")[0].rpartition("/")[2]


def _candidates(name: str, mirrors: list[Path]) -> Iterator[Path]:
    """Files below the mirror folders with the URL's name, packed or plain."""
    plain = name.removesuffix(".gz")
    for mirror in mirrors:
        for folder, _, names in os.walk(mirror):
            for wanted in (plain, f"{plain}.gz"):
                if wanted in names:
                    yield Path(folder) / wanted


def _unpack(packed: Path, content: Path) -> str:
    """Write what `packed` holds, gunzipped if it is gzip, to `content` and return its sha256, or what is wrong."""
    digest = hashlib.sha256()
    try:
        with _opened(packed) as stream, content.open("wb") as target:
            while piece := stream.read(PIECE):
                digest.update(piece)
                target.write(piece)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return "of a broken archive"
    return digest.hexdigest()


def _opened(path: Path) -> IO[bytes]:
    """The file, read through gunzip if it begins as gzip does, whatever its name says."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _download(url: str, target: Path, progress: Progress) -> None:
    name = _name(url)
    try:
        with (
            httpx.Client(
                transport=httpx.HTTPTransport(retries=2), timeout=30, follow_redirects=True
            ) as client,
            client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer,
            target.open("wb") as stream,
        ):
            answer.raise_for_status()
            total = int(answer.headers.get("Content-Length", 0))
            for piece in answer.iter_bytes(PIECE):
                stream.write(piece)
                progress(f"{name} (bytes)", stream.tell(), max(total, stream.tell()))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        cause = (
            f"the server answered {error.response.status_code}"
            if isinstance(error, httpx.HTTPStatusError)
            else str(error) or type(error).__name__
        )
        raise UserError(
            f"{url} cannot be downloaded ({cause}); check the address and the network, or put the file "
            "into a folder and name that folder in GENLOOM_MIRROR."
        ) from error
