"""The bundled digits; MNIST's format from mirrors and from URLs, each by the hash of its content."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.data.example import Entry, Source, silent
from components.data.fetch import fetch
from components.data.sources import open_source
from components.errors import UserError
from components.project import Project, open_project
from components.row import RemoteFile

Bare = Callable[[dict[str, Any]], Project]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which this machine serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def idx(array: np.ndarray[Any, Any]) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def remote(url: str, content: bytes) -> RemoteFile:
    return RemoteFile(url=url, sha256=hashlib.sha256(content).hexdigest())


def pictures(count: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (count, 6, 5), np.uint8)


def entries(source: Source) -> list[Entry]:
    return [entry for entry in source.entries if isinstance(entry, Entry)]


def test_digits(bare: Bare) -> None:
    project = bare({"digits": {"source": "digits"}})
    source = open_source(project, project.dataset("digits"), silent)
    found = entries(source)
    levels = np.stack([entry.load() for entry in found])
    assert levels.shape == (1797, 1, 8, 8)
    assert (levels.min(), levels.max()) == (0, 255)
    assert {entry.label for entry in found} == {str(digit) for digit in range(10)}
    assert {entry.split for entry in found} == {None}


def mnist(bare: Bare, url: str, parts: dict[str, bytes]) -> tuple[Project, dict[str, bytes]]:
    files = {name: remote(f"{url}/{name}.gz", data).model_dump() for name, data in parts.items()}
    return bare({"small": {"source": "idx", "files": files}}), parts


def test_idx_from_a_mirror_whatever_its_packing(
    bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = pictures(7, 0), np.arange(7, dtype=np.uint8)
    held = pictures(3, 1)
    parts = {"train_images": idx(images), "train_labels": idx(labels), "test_images": idx(held)}
    parts["test_labels"] = idx(np.array([9, 8, 7], np.uint8))
    deep = tmp_path / "mirror" / "some" / "where"
    deep.mkdir(parents=True)
    for name, data in parts.items():
        packed = name.startswith("train")
        (deep / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data, 1) if packed else data)
    (tmp_path / "mirror" / "train_images.gz").write_bytes(gzip.compress(b"something else"))
    (tmp_path / "mirror" / "train_labels").write_bytes(b"something else")
    monkeypatch.setenv("GENLOOM_MIRROR", f"{tmp_path / 'nowhere'}:{tmp_path / 'mirror'}")
    project, _ = mnist(bare, "http://127.0.0.1:9", parts)
    found = entries(open_source(project, project.dataset("small"), silent))
    assert [(entry.label, entry.split) for entry in found] == [
        *((str(label), "train") for label in range(7)),
        *((str(label), "test") for label in (9, 8, 7)),
    ]
    assert (np.stack([entry.load() for entry in found]) == np.concatenate([images, held])[:, None]).all()


def test_idx_with_labels_for_one_part_only(
    bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"train_images": idx(pictures(7, 0)), "train_labels": idx(np.arange(7, dtype=np.uint8))}
    parts["test_images"] = idx(pictures(3, 1))
    for name, data in parts.items():
        (tmp_path / name).write_bytes(data)
    monkeypatch.setenv("GENLOOM_MIRROR", str(tmp_path))
    project, _ = mnist(bare, "http://127.0.0.1:9", parts)
    with pytest.raises(UserError, match=r"One of train_labels and test_labels is missing"):
        open_source(project, project.dataset("small"), silent)


def test_a_download_is_unpacked_checked_kept_and_asked_for_once(bare: Bare, site: tuple[Path, str]) -> None:
    folder, url = site
    (folder / "a.gz").write_bytes(gzip.compress(b"content"))
    project = bare({})
    told: list[tuple[str, int, int]] = []
    file = remote(f"{url}/a.gz", b"content")
    path = fetch(file, project.settings, lambda *what: told.append(what))
    assert path.read_bytes() == b"content"
    assert told[-1] == ("a.gz (bytes)", 27, 27)
    (folder / "a.gz").unlink()
    assert fetch(file, project.settings, silent) == path
    path.write_bytes(b"altered")
    with pytest.raises(UserError, match="the server answered 404"):
        fetch(file, project.settings, silent)


@pytest.mark.parametrize("served", [b"other", gzip.compress(b"other")[:-6]], ids=["other", "cut off"])
def test_a_wrong_hash_is_named_and_nothing_is_kept(bare: Bare, site: tuple[Path, str], served: bytes) -> None:
    folder, url = site
    (folder / "a.gz").write_bytes(served)
    project = bare({})
    wanted = remote(f"{url}/a.gz", b"content")
    with pytest.raises(UserError) as caught:
        fetch(wanted, project.settings, silent)
    message = str(caught.value)
    assert f"{url}/a.gz" in message
    assert wanted.sha256 in message
    found = hashlib.sha256(b"other").hexdigest() if served == b"other" else "broken archive"
    assert found in message
    assert list((project.settings.home / "downloads").iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.gz", "ftp://127.0.0.1/a.gz", "http://[/a.gz"])
def test_an_address_that_does_not_answer(bare: Bare, url: str) -> None:
    project = bare({})
    with pytest.raises(UserError, match=r"cannot be downloaded \(.+\); .* GENLOOM_MIRROR"):
        fetch(remote(url, b""), project.settings, silent)


def test_files_that_are_not_what_the_row_says(bare: Bare, site: tuple[Path, str]) -> None:
    folder, url = site
    good, labels = idx(pictures(4, 0)), idx(np.arange(3, dtype=np.uint8))
    cases = [
        ({"train_images": good, "train_labels": labels}, r"\(4, 6, 5\) and \(3,\), not pictures"),
        ({"train_images": b"no idx"}, "is no whole IDX file of unsigned bytes"),
        ({"train_images": good[:-9]}, "is no whole IDX file of unsigned bytes"),
        ({"train_images": good, "test_images": idx(pictures(4, 0)[:, 1:])}, "of one size"),
        ({"test_images": good}, "needs train_images"),
    ]
    for parts, message in cases:
        for name, data in parts.items():
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        project, _ = mnist(bare, url, parts)
        with pytest.raises(UserError, match=message):
            open_source(project, project.dataset("small"), silent)


def test_a_path_where_nothing_is(bare: Bare) -> None:
    project = bare({"mine": {"source": "folder", "path": "gone"}})
    with pytest.raises(UserError, match=r"There is no .*bare/gone, where params\.yaml says"):
        open_source(open_project(project.root), project.dataset("mine"), silent)
