"""A grid is a table laid out: for a terminal, for Markdown, and in parts where it is too wide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.report import escape

MARK = "*"
"""Beside a difference that is more than chance."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field has lines, the first of them its figure."""

    lines: tuple[str, ...]
    best: bool = False
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid is what people read of a comparison: rows with labels, and columns with heads."""

    title: str
    header: list[Field]
    body: list[tuple[str, list[Field]]]
    notes: list[str]


def fitting(grid: Grid, console: Console) -> list[Grid]:
    """Cut the grid into several of fewer columns each where the terminal is too narrow for it.

    Each keeps the first column, and those after it in their order.
    """
    columns = len(grid.header)
    for width in range(columns - 1, 0, -1):
        parts = [
            replace(
                grid,
                header=[grid.header[0], *grid.header[start : start + width]],
                body=[(label, row[start - 1 : start - 1 + width]) for label, row in grid.body],
            )
            for start in range(1, columns, width)
        ]
        options = console.options.update(width=1000)
        widths = [Measurement.get(console, options, rich_table(part)).maximum for part in parts]
        if width == 1 or max(widths) <= console.width:
            return parts
    return [grid]


def rich_table(grid: Grid) -> Table:
    """Lay the grid out for a terminal, 80 columns wide with three schemes; without the title."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, field in enumerate(grid.header):
        head = _stacked(field.lines[0], field.lines[1:], style="bold")
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for number, (label, fields) in enumerate(grid.body):
        row = [escape.terminal(label, style="bold" if number == 0 else "")]
        for field in fields:
            style = "bold green" if field.best else "red" if field.failed else ""
            # A star too: colours and weights are lost in a file or a pipe.
            first = f"* {field.lines[0]}" if field.best else field.lines[0]
            row.append(_stacked(first, field.lines[1:], style=style))
        table.add_row(*row, end_section=True)
    return table


def _stacked(first: str, others: Sequence[str], *, style: str) -> Text:
    """Put under a field's figure what belongs to it."""
    text = escape.terminal(first, style=style)
    for line in others:
        text.append("\n").append(escape.terminal(line, style="dim not bold"))
    return text


def markdown(grid: Grid) -> str:
    """Write the grid for a README or a pull request."""
    lines = [
        f"**{escape.markdown(grid.title)}**",
        "",
        f"| {' | '.join(map(_joined, grid.header))} |",
        "|---" + "|--:" * (len(grid.header) - 1) + "|",
        *(
            f"| {escape.markdown(label)} | {' | '.join(map(_joined, fields))} |"
            for label, fields in grid.body
        ),
        "",
        *(f"- {escape.markdown(note)}" for note in grid.notes),
    ]
    return "\n".join(lines) + "\n"


def _joined(field: Field) -> str:
    """Write a field's lines into one of Markdown."""
    first, *others = map(escape.markdown, field.lines)
    figure = f"**{first}**" if field.best else first
    return "<br>".join(line for line in (figure, *others) if line)


def print_table(output: Console, grid: Grid) -> None:
    """Print the grid with its title and notes, in parts where the terminal is too narrow."""
    output.print()
    output.print(escape.terminal(grid.title, style="italic"))
    for part in fitting(grid, output):
        output.print(rich_table(part))
    for note in grid.notes:
        output.print(Padding(escape.terminal(note, style="dim"), (0, 0, 0, 2)))
