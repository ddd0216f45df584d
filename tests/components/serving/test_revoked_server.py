"""A version that is withdrawn on a real server: by the command line, over HTTP, to the last and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from tests.until import until

WHY = "it repeats a face"


def ask(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json={"model": "digits", "seed": 1}, timeout=60)


def answers(url: str, number: int) -> bool:
    return ask(url).headers.get("x-genloom-version") == str(number)


def live(genloom: Callable[..., Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(genloom("models", "live", "--json").out)
    return found


def test_a_withdrawn_version_answers_nobody(url: str, genloom: Callable[..., Any]) -> None:
    assert genloom("promote", "digits", "--version", "2", "--force", "--why", "a test").code == 0
    until(lambda: answers(url, 2))
    said = genloom("models", "withdraw", "digits/2", "--reason", WHY)
    assert said.code == 0, said.err
    assert f"digits/2 is withdrawn: {WHY}." in said.out
    assert "digits/1 is champion again." in said.out
    assert "No replica of digits answers with it (1 looked at)." in said.out
    until(lambda: answers(url, 1))
    served = {"digits": 1, "holes": 1, "kinds": 1, "tales": 1}
    until(lambda: {row["product"]: row["version"] for row in live(genloom)} == served)
    assert {row["url"] for row in live(genloom)} == {url}
    assert "digits/1" in genloom("models", "live", "digits").out


def test_the_last_version_leaves_the_others_served(url: str, genloom: Callable[..., Any]) -> None:
    last = genloom("models", "withdraw", "digits/1", "--reason", "its data may not be used")
    assert "digits has no champion now" in last.out
    answer = ask(url)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "model_withdrawn"
    assert "its data may not be used" in answer.json()["error"]["message"]
    assert httpx.get(f"{url}/health").status_code == 200
    assert "its data may not be used" in genloom("models", "live").out
    for arguments in (("serve", "digits"), ("generate", "digits"), ("generate", "digits", "--version", "2")):
        said = genloom(*arguments)
        assert said.code == 2, arguments
        assert "was withdrawn on" in said.err
        assert said.err.count("\n") == 1


def test_it_comes_back_when_somebody_says_so(url: str, genloom: Callable[..., Any]) -> None:
    for number in ("1", "2"):
        assert genloom("models", "restore", f"digits/{number}", "--reason", "the test is over").code == 0
    assert ask(url).status_code == 503, "nothing comes back by itself"
    assert genloom("rollback", "digits", "--to", "1").code == 0
    until(lambda: answers(url, 1))
