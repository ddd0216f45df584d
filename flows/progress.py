"""How long work shows itself in the terminal: a bar with rate and time left for a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


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
