"""The chat in the terminal forgets its beginning, as the model would."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from components.modalities.completion import MESSAGES
from components.serving import speak
from components.serving.writing import Piece
from flows.commands import chat


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_a_chat_goes_on_beyond_the_most_messages_of_a_request(
    monkeypatch: pytest.MonkeyPatch, system: list[dict[str, str]]
) -> None:
    asked: list[Any] = []

    def answers(_: object, body: Any) -> list[Piece]:
        asked.append(body)
        return [Piece(0, "yes", "stop")]

    monkeypatch.setattr(speak, "speak", answers)
    place, messages = SimpleNamespace(asked="talk"), list(system)
    for turn in range(MESSAGES):
        chat._turn(place, messages, f"turn {turn}", {"seed": 0})  # type: ignore[arg-type]
    assert len(asked) == MESSAGES
    last = asked[-1].messages
    assert len(last) == MESSAGES
    assert [message.content for message in last[: len(system)]] == [one["content"] for one in system]
    said = [message.content for message in last[len(system) :] if message.role == "user"]
    assert said == [f"turn {turn}" for turn in range(MESSAGES)][-len(said) :]
    half = asked[MESSAGES // 2 - 1].messages
    assert len(half) == min(MESSAGES, len(system) + MESSAGES - 1), "nothing is forgotten before"
