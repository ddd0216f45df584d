"""What tables print: words of others as they are, whatever brackets they hold."""

from __future__ import annotations

import pytest

from flows.commands.show import facts, listing


@pytest.mark.parametrize("value", ["[/x]", "[red]", "memory ([enforce fail at alloc_cpu.cpp:117] err == 0)"])
def test_brackets_are_no_markup(
    value: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    listing([{"request": value, "label": [value]}], False)
    facts({"reason": value, value: 1.0}, False)
    printed = "".join(capsys.readouterr().out.split())
    assert printed.count("".join(value.split())) == 4
