"""A trained model of conversations, asked by OpenAI's client through the routes about held-out conversations."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import openai
from fastapi.testclient import TestClient

from components.data.example import silent
from components.data.fetch import fetch
from components.project import Project
from components.rows import TextFilesRow
from components.serving.catalog import Catalog, Served, open_version
from components.serving.routes.application import create_app
from tests.benchmarks.row import Row

ROLES = {"USER": "user", "SYSTEM": "assistant"}
TALKS, TURNS = 20, 3


def talk(where: Project, product: str, artifact: Path, transcript: Path) -> Row:
    """Ask for the system's turn after each of the first turns of held-out conversations; write what was said."""
    loaded = open_version(Served(product, 1, artifact, 0), where.settings)
    with TestClient(create_app(Catalog({product: loaded}))) as web:
        client = openai.OpenAI(base_url="http://testserver/v1", api_key="none", http_client=web)
        talks = [asked(client, product, turns) for turns in held_out(where)]
    transcript.parent.mkdir(parents=True, exist_ok=True)
    transcript.write_text("\n\n".join("\n".join(lines) for _, lines in talks), encoding="utf-8")
    answers = [answer for own, _ in talks for answer in own]
    ended = sum(answer.choices[0].finish_reason == "stop" for answer in answers)
    words = statistics.median(len(str(answer.choices[0].message.content).split()) for answer in answers)
    said = f"{len(answers)} answers, {ended} of them ended by the model itself, of {words:.0f} words (median)"
    what = f"`dialogue-gpt`: {len(talks)} held-out conversations through /v1/chat/completions by `openai`"
    return Row(what, said, "stated", {"ended": ended / len(answers)})


def held_out(where: Project) -> list[list[dict[str, str]]]:
    """The first turns of conversations of the test split, as messages."""
    row = where.dataset("dialogue")
    assert isinstance(row, TextFilesRow)
    file = fetch(row.files["test"], where.settings, silent)
    with file.open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in itertools.islice(lines, TALKS)]
    return [
        [{"role": ROLES[turn["speaker"]], "content": turn["text"]} for turn in record["turns"]]
        for record in records
    ]


def asked(client: openai.OpenAI, product: str, turns: list[dict[str, Any]]) -> tuple[list[Any], list[str]]:
    """The answers where a system's turn is due, and the talk as text; the next question is the recorded one."""
    answers: list[Any] = []
    lines: list[str] = []
    places = [place for place, turn in enumerate(turns) if turn["role"] == "assistant"][:TURNS]
    for place in places:
        before: Any = turns[:place]
        answer = client.chat.completions.create(model=product, messages=before, seed=1, temperature=0.5)
        answers.append(answer)
        lines += [f"user:   {turns[place - 1]['content']}", f"model:  {answer.choices[0].message.content}"]
        lines += [f"(said:  {turns[place]['content']})"]
    return answers, lines
