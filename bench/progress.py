"""What a person sees while work goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Reporter:
    """Bars with the time left on a terminal, one line per finished stage elsewhere."""

    def __init__(self, console: Console) -> None:
        """Report on ``console``, which should be standard error: tables go to standard output."""
        self.console = console

    @property
    def silent(self) -> bool:
        """Nobody reads lines of information: what they would say need not be measured."""
        return self.console.quiet

    def say(self, text: str, *, style: str = "") -> None:
        """A line of information, as it is: names may hold brackets."""
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that should not be overlooked."""
        self.console.print(
            f"[yellow]note:[/yellow] {escape(text)}", highlight=False, soft_wrap=True
        )

    @contextmanager
    def stage(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yields a function that is told how many units were finished."""
        started = time.perf_counter()
        if not self.console.is_terminal:
            yield lambda count: None
        else:
            columns = (
                TextColumn("{task.description:<34}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(description, total=total)
                yield lambda count: progress.advance(task, count)
        self.say(f"  {description:<34} {time.perf_counter() - started:7.1f} s")


class Bars(Reporter):
    """Bars and warnings alone, for what is done many times over."""

    silent = True

    def say(self, text: str, *, style: str = "") -> None:
        """Nothing."""


def quiet() -> Reporter:
    """A reporter that shows nothing, for use from Python."""
    return Reporter(Console(quiet=True))
