"""Pictures in tar and zip files: found by hash, read in place, with official parts, classes and metadata."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.data.example import Dropped, Entry, Source, silent
from components.data.prepare import prepare
from components.data.sources import open_source
from components.errors import UserError
from components.project import Project, open_project

Bare = Callable[[dict[str, Any]], Project]
Png = Callable[[int], bytes]
SIZE = {"size": [8, 8], "licence": "CC0"}


def packed(kind: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of `files`, gzipped for the kind tar.gz."""
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as found:
            for name, data in files.items():
                found.writestr(name, data)
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode="w:gz" if kind == "tar.gz" else "w") as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
        link = tarfile.TarInfo("pets/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return stream.getvalue()


@pytest.fixture
def archived(bare: Bare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    """A project with the dataset `pets` in archives that lie in a mirror."""

    def archived(parts: Mapping[str, tuple[str, Mapping[str, bytes]]], **fields: Any) -> Project:
        mirror = tmp_path / "mirror"
        mirror.mkdir(exist_ok=True)
        files = {}
        for part, (kind, content) in parts.items():
            data = packed("tar" if kind == "tar.gz" else kind, content)
            (mirror / f"{part}.{kind}").write_bytes(packed(kind, content) if kind == "tar.gz" else data)
            files[part] = {"url": f"mirror:{part}.{kind}", "sha256": hashlib.sha256(data).hexdigest()}
        monkeypatch.setenv("GENLOOM_MIRROR", str(mirror))
        return bare({"pets": {"source": "archive", "files": files, **SIZE, **fields}})

    return archived


def opened(project: Project) -> Source:
    return open_source(project, project.dataset("pets"), silent)  # type: ignore[arg-type]


def entries(source: Source) -> dict[str, tuple[str | None, str | None, str | None]]:
    found = [entry for entry in source.entries if isinstance(entry, Entry)]
    assert all(entry.load().shape == (3, 8, 8) for entry in found)
    return {entry.name: (entry.label, entry.split, entry.caption) for entry in found}


def test_names_of_two_kinds_are_one_sentence(archived: Callable[..., Project], png: Png) -> None:
    project = archived({"train": ("tar", {"/pets/cat/a.png": png(0), "pets/dog/b.png": png(1)})})
    with pytest.raises(UserError, match="is no whole tar or zip file") as caught:
        opened(project)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_class_folders_below_a_common_one(archived: Callable[..., Project], png: Png, kind: str) -> None:
    files = {"./pets/cat/0.png": png(0), "./pets/dog/1.png": png(1), "./pets/.hidden/2.png": png(2)}
    project = archived({"all": (kind, {**files, "__MACOSX/._3.png": b"x"})})
    assert entries(opened(project)) == {"cat/0.png": ("cat", None, None), "dog/1.png": ("dog", None, None)}


def test_names_that_lead_elsewhere_are_only_names(archived: Callable[..., Project], png: Png) -> None:
    project = archived({"all": ("zip", {"a/0.png": png(0), "../../1.png": png(1)})})
    assert set(entries(opened(project))) == {"0.png"}


def test_parts_are_official_splits_and_classes_must_be_in_all(
    archived: Callable[..., Project], png: Png
) -> None:
    train = {f"Train/cat/{seed}.png": png(seed) for seed in range(40)}
    test = {"Test/40.png": png(40), "Test/broken.png": png(41)[:90]}
    project = archived({"train": ("tar", {**train, "Train/dog/39.png": png(99)}), "test": ("zip", test)})
    source = opened(project)
    assert entries(source)["cat/0.png"] == ("cat", "train", None)
    reasons = {entry.name: entry.reason for entry in source.entries if isinstance(entry, Dropped)}
    assert reasons == dict.fromkeys(["40.png", "broken.png"], "without a class, which others have")


def test_metadata_inside_gives_captions(archived: Callable[..., Project], png: Png) -> None:
    lines = [{"file_name": f"{seed}.png", "text": f"picture {seed}", "label": seed % 2} for seed in range(30)]
    files = {f"pets/{seed}.png": png(seed) for seed in range(30)}
    files["pets/metadata.jsonl"] = "\n".join(map(json.dumps, lines)).encode()
    project = archived({"all": ("tar", files)}, caption="text")
    assert entries(opened(project))["3.png"] == ("1", None, "picture 3")
    dataset = prepare(project, "pets", project.prepared / "pets")
    assert dataset.shape.prompt is not None
    assert dataset.classes == ("0", "1")


def test_only_the_middle_is_cut_out_of_larger_ones(archived: Callable[..., Project], png: Png) -> None:
    source = opened(archived({"all": ("tar", {"a/0.png": png(0)})}, fit="cut", size=[4, 4]))
    (entry,) = source.entries
    assert isinstance(entry, Entry)
    (whole,) = opened(archived({"all": ("tar", {"a/0.png": png(0)})}, size=[10, 12])).entries
    assert isinstance(whole, Entry)
    assert (entry.load() == whole.load()[:, 3:7, 4:8]).all()


def test_what_is_no_archive(
    archived: Callable[..., Project], png: Png, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.components.data.test_archive.packed", lambda kind, files: b"no archive at all")
    project = archived({"all": ("tar", {})})
    with pytest.raises(
        UserError, match=r"^mirror:all\.tar is no whole tar or zip file \(.*\); correct its row\.$"
    ):
        opened(project)


def spoil(project: Project, name: str) -> None:
    """Change the checksum of a member in the zip that the dataset `pets` names, and its row’s hash to fit."""
    path = project.root / "params.yaml"
    zipped = Path(os.environ["GENLOOM_MIRROR"]) / "all.zip"
    data = bytearray(zipped.read_bytes())
    before = hashlib.sha256(data).hexdigest()
    entry = data.rindex(name.encode()) - 46  # where its line in the list of contents begins
    assert data[entry : entry + 4] == b"PK\x01\x02"
    data[entry + 16] ^= 1
    zipped.write_bytes(data)
    path.write_text(path.read_text().replace(before, hashlib.sha256(data).hexdigest()))


def test_a_member_that_cannot_be_unpacked_is_left_out(archived: Callable[..., Project], png: Png) -> None:
    project = archived({"all": ("zip", {f"pets/{seed}.png": png(seed) for seed in range(40)})})
    spoil(project, "pets/7.png")
    project = open_project(project.root)
    dataset = prepare(project, "pets", project.prepared / "pets")
    report = json.loads((dataset.folder / "report.json").read_text())
    assert report["kept"] == 39
    assert report["dropped"] == {
        "a member of the zip that cannot be unpacked": {"count": 1, "files": ["7.png"]}
    }


def test_metadata_that_cannot_be_unpacked(archived: Callable[..., Project], png: Png) -> None:
    lines = b'{"file_name": "0.png", "label": "a"}'
    project = archived({"all": ("zip", {"pets/0.png": png(0), "pets/metadata.jsonl": lines})})
    spoil(project, "pets/metadata.jsonl")
    with pytest.raises(
        UserError,
        match=r"^mirror:all\.zip/metadata\.jsonl cannot be read \(a member .*\); pack the archive again\.$",
    ):
        opened(open_project(project.root))


def test_an_empty_archive(archived: Callable[..., Project]) -> None:
    with pytest.raises(UserError, match=r"mirror:all\.zip is empty; put pictures into it"):
        opened(archived({"all": ("zip", {})}))
