"""``awq-bench tables`` draws a comparison's tables, charts and report again."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import exit_codes, options, show
from bench.cli.exit_codes import BAD_INPUT, CELL_FAILED, DONE, INTERNAL_ERROR
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  # after a run that was killed, or with another price
  awq-bench compare ./my-model --methods rtn --text traffic.txt --out runs/rtn
  awq-bench tables runs/rtn --price-per-hour 2.5

what comes out: in DIR, the tables, charts and report.md anew; its records stay.
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "tables",
        usage="awq-bench tables DIR [--price-per-hour X]",
        about="tables, charts and report of a comparison, drawn again from its records",
        description="Draw again what `awq-bench compare` draws at its end, from the records that "
        "are in DIR, finished or not. Nothing is measured. Records that are damaged are left out, "
        "and named.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, CELL_FAILED, INTERNAL_ERROR),
    )
    options.price_per_hour(options.compared(parser))


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Draw everything from the records that are there; returns the exit code."""
    from bench.comparison.redraw import redraw

    outcome, left_out = redraw(given.folder, price_per_hour=given.price_per_hour, say=reporter)
    code = show.outcome(output, outcome)
    return CELL_FAILED if left_out else code
