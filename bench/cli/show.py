"""Several commands print here what they did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.cli.exit_codes import CELL_FAILED, DONE
from bench.report import escape

if TYPE_CHECKING:
    from bench.comparison.compare import Outcome
    from bench.gate.baseline import Baseline
    from bench.gate.judge import Judgement


def line(output: Console, text: str) -> None:
    """Print a line about what was done."""
    output.print(escape.terminal(text), soft_wrap=True)


def written(output: Console, place: Path) -> None:
    """Print where all is."""
    line(output, f"Written to {place}")


def outcome(output: Console, outcome: Outcome) -> int:
    """Print a comparison's tables, what failed, and where all is; returns its exit code."""
    from bench.report import charts, grid, notes

    _widen(output)
    for layout in outcome.tables:
        grid.print_table(output, layout)
    if outcome.failed:
        output.print()
        for failure in notes.failures(outcome.failed, outcome.records[0].cell.suites):
            output.print(escape.terminal(failure, style="bold red"), soft_wrap=True)
        again = f"the same command with --out {outcome.folder} runs what failed, and nothing else"
        line(output, again)
    output.print()
    if not charts.available():
        line(output, charts.MISSING)
    shown = (path.name for path in outcome.folder.iterdir() if path.name != "unfinished")
    files = ", ".join(sorted(name for name in shown if not name.startswith(".")))
    line(output, f"Written to {outcome.folder}: {files}")
    return CELL_FAILED if outcome.failed else DONE


def gates(output: Console, results: Sequence[Judgement]) -> None:
    """Print the table of every baseline's gates."""
    from bench.gate import report
    from bench.report import grid

    _widen(output)
    for result in results:
        grid.print_table(output, report.grid(result))


def baseline(output: Console, made: Baseline, path: Path) -> None:
    """Print a new baseline's gates and tolerances, and its null runs."""
    from bench.gate import report
    from bench.gate.judge import judge_made
    from bench.gate.null_runs import null_runs
    from bench.report import grid

    gates(output, [judge_made(made, path, made)])
    rates = null_runs(made)
    if rates is not None:
        grid.print_table(output, report.rates_grid(rates))


def _widen(output: Console) -> None:
    """Widen the output of a file or a pipe, which has no edge to fold lines at."""
    if not output.is_terminal:
        output.width = 120
