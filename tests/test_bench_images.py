"""The table of `make bench-images`: which runs it takes, which rows it keeps, and in which order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from components.project import open_project
from tests.benchmarks import images

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "benchmarks.md"
    path.write_text("before\n<!-- bench-images -->\n<!-- /bench-images -->\nbehind\n")
    return path


def test_rows_are_picked_by_run_or_family_and_large_ones_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    where = open_project(ROOT)
    assert images.chosen(where, ["mnist-dcgan"]) == ["mnist-dcgan"]
    assert {where.run(name).family for name in images.chosen(where, ["gan", "vqvae"])} == {"gan", "vqvae"}
    assert images.chosen(where, []) == list(images.AIMS)
    assert "emoji-64-diffusion" not in images.chosen(where, ["diffusion"])
    assert images.chosen(where, ["emoji-64-diffusion"]) == ["emoji-64-diffusion"]
    with pytest.raises(SystemExit, match="no run or family mnist-dgan"):
        images.chosen(where, ["mnist-dgan"])


def test_every_family_of_pictures_has_a_row() -> None:
    where = open_project(ROOT)
    from components.families.family import Kind, kind_of, names

    drawn = {name for name in names() if Kind.IMAGE in kind_of(name).kinds}
    assert {where.run(name).family for name in images.AIMS} == drawn


def test_a_row_takes_the_place_of_its_old_one_in_the_order_of_the_table(page: Path) -> None:
    for name in ("mnist-dcgan", "mnist-gan", "mnist-dcgan"):
        images.keep(page, name, f"| `{name}` (x) | {len(images.lines(page))} |")
    assert images.lines(page) == ["| `mnist-gan` (x) | 1 |", "| `mnist-dcgan` (x) | 2 |"]
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nbehind\n")


def test_a_row_of_the_same_key_is_not_trained_again(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def train(where: object, name: str) -> None:
        trained.append(name)
        raise InterruptedError

    key = SimpleNamespace(key="0123456789abcdef")
    monkeypatch.setattr(images, "reproduce", lambda *_: [])
    monkeypatch.setattr(images, "plan_of", lambda *_: key)
    monkeypatch.setattr(images, "train", train)
    images.keep(page, "mnist-gan", f"| `mnist-gan` (gan) | 2026-11-26 {key.key[: images.KEY]} |")
    assert images.fresh(open_project(ROOT), page, "mnist-gan") is None
    key.key = "f" * 16
    with pytest.raises(InterruptedError):
        images.fresh(open_project(ROOT), page, "mnist-gan")
    assert trained == ["mnist-gan"]
