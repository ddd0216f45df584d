"""How long work shows itself in the terminal: a bar with rate and time left for a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True, highlight=False)
listeners: list[Callable[[str], object]] = []
"""Who else is told each sentence, such as the log of a flow that nobody watches."""


@contextmanager
def training_bar(run: str, steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar over `steps`; call what it gives with each line of progress."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=console) as bars:
        bar = bars.add_task(run, total=steps, rate="", losses="")

        def show(line: Mapping[str, Any]) -> None:
            """Move the bar to what `line` says, and say its warnings above it."""
            losses = "  ".join(
                f"{name.removeprefix('loss/')} {value:.3f}"
                for name, value in line.items()
                if name.startswith("loss/")
            )
            bars.update(bar, completed=line["step"], rate=rate(line), losses=losses)
            for sentence in line.get("warnings", ()):
                say(f"Warning: {sentence}")

        yield show


def rate(line: Mapping[str, Any]) -> str:
    """How fast a training was when it wrote `line`: tokens a second where it reads tokens, otherwise rows."""
    if "tokens_per_second" in line:
        return f"{line['tokens_per_second']:,.0f} tokens/s"
    return f"{line['rows_per_second']:,.0f} rows/s" if "rows_per_second" in line else ""


def say(sentence: str) -> None:
    """One line for the person in front of the terminal."""
    console.print(sentence, markup=False, soft_wrap=True)
    for listen in listeners:
        listen(sentence)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f}/s")


class Bars(AbstractContextManager["Bars"]):
    """A progress bar on the terminal for each thing that is being done, with rate and time left.

    Nothing is written before there is something to show, so an error stands alone.
    """

    def __init__(self) -> None:
        what = TextColumn("{task.description}")
        columns = (what, BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._tasks:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Say that `done` of `total` is done of `what`."""
        self._bars.start()
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.update(self._tasks[what], completed=done, total=total)
