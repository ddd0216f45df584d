"""The page of commands says what `--help` says."""

from __future__ import annotations

from pathlib import Path

from flows.commands.main import MODULES
from flows.commands.page import page

PAGE = Path(__file__).resolve().parents[3] / "docs" / "commands.md"


def test_the_page_is_of_these_commands() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "the commands have changed; type make commands"
    assert all(f"## `genloom {name}" in written for name in {*MODULES} - {"trials", "models"})
