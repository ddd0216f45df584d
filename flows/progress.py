"""How long work shows itself in the terminal: a bar with rate and time left for a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

if TYPE_CHECKING:
    from components.tuning.records import Sweep, Trial

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


@contextmanager
def byte_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes, with rate and time left; call what it gives with the bytes that are done, and of how many."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=console)
    bar = bars.add_task(what, total=None)

    def show(done: int, total: int) -> None:
        """Move the bar, which is first seen when there is something to show."""
        bars.start()
        bars.update(bar, completed=done, total=total)

    try:
        yield show
    finally:
        bars.stop()


class SearchBar(AbstractContextManager["SearchBar"]):
    """A bar over the trials of a search, with the best so far and the time left; a line for each trial that ends.

    If the search ends by an error or by Ctrl-C, it says at last what was found until then.
    """

    def __init__(self, run: str, trials: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("trial {task.fields[now]} of {task.total:.0f}"),
            TextColumn("{task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=console)
        self._bar = self._bars.add_task(run, total=trials, now=0, best="")
        self._sweep: Sweep | None = None

    def __enter__(self) -> SearchBar:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._bars.stop()
        if kind is not None and self._sweep is not None:
            from components.tuning.report import sentence

            say(sentence(self._sweep))

    def __call__(self, sweep: Sweep, trial: Trial) -> None:
        """Take in what `trial` has just come to."""
        self._sweep, best = sweep, sweep.best
        running = sum(one.step / sweep.steps for one in sweep.trials if not one.over)
        self._bars.update(
            self._bar,
            completed=sweep.over + running,
            now=trial.number,
            best="" if best is None or best.value is None else f"best {best.value:.4g} (trial {best.number})",
        )
        if trial.over:
            say(_said(sweep, trial))


def _said(sweep: Sweep, trial: Trial) -> str:
    """How a trial ended, in one line."""
    settings = "  ".join(f"{name}={value:g}" for name, value in trial.settings.items())
    if trial.state == "failed":
        return f"trial {trial.number:<4} failed ({settings}): {trial.reason}"
    where = "" if trial.state == "done" else f" at step {trial.step} of {sweep.steps}"
    return f"trial {trial.number:<4} {trial.state}{where}: {sweep.metric} {trial.value:.4g}  {settings}"
