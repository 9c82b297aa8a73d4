"""A person sees how far the work is while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from bench.report import escape


class Reporter:
    """A reporter shows bars with time left on a terminal, a line per finished stage elsewhere."""

    def __init__(self, console: Console) -> None:
        """Report on ``console``, which should be standard error: tables go to standard output."""
        self.console = console

    @property
    def silent(self) -> bool:
        """Say whether nobody reads lines of information: what they say need not be measured."""
        return self.console.quiet

    def say(self, text: str, *, style: str = "") -> None:
        """Say a line of information."""
        self.console.print(escape.terminal(text, style=style), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say a line that should not be overlooked."""
        self._marked("note:", "yellow", text)

    def fail(self, text: str) -> None:
        """Say why a command ends without what it was asked for."""
        self._marked("error:", "bold red", text)

    def _marked(self, mark: str, style: str, text: str) -> None:
        self.console.print(Text.assemble((mark, style), " ", escape.terminal(text)), soft_wrap=True)

    @contextmanager
    def stage(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        """Yield a function that is told how many units were finished."""
        started = time.perf_counter()
        if not self.console.is_terminal:
            yield lambda count: None
        else:
            columns = (
                TextColumn("{task.description:<34}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(escape.line(description), total=total)
                yield lambda count: progress.advance(task, count)
        self.say(f"  {description:<34} {time.perf_counter() - started:7.1f} s")


class Bars(Reporter):
    """Bars and warnings alone are shown, for what is done many times over."""

    silent = True

    def say(self, text: str, *, style: str = "") -> None:
        """Say nothing."""


def quiet() -> Reporter:
    """Make a reporter that shows nothing, for use from Python."""
    return Reporter(Console(quiet=True))
