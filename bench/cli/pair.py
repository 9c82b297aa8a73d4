"""``awq-bench pair`` compares two cells of a comparison with each other."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import exit_codes, options
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  # does clipping help at 3 bits, on the tasks?
  awq-bench compare ./my-model --suites perplexity,tool_calls --limit 50 \\
      --methods awq,awq+clip --schemes int3-g128 --text traffic.txt \\
      --calibration self --out runs/clip
  awq-bench pair runs/clip awq+clip@int3-g128 awq@int3-g128

what comes out: printed, a line for each suite that both cells ran.
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "pair",
        usage="awq-bench pair DIR CELL CELL",
        about="any two cells of a comparison against each other",
        description="Compare two cells that `awq-bench compare` measured, window by window and "
        "item by item: differences with paired intervals, flips, and whether they are more than "
        "chance.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR),
    )
    options.compared(parser).add_argument(
        "cells",
        metavar="CELL",
        nargs=2,
        help="METHOD@SCHEME, such as awq+clip@int4-g128, or unquantized; two of them (required)",
    )


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Print the table of two cells; returns the exit code."""
    from bench.report import grid
    from bench.report.pair import open_cell, pair

    first, second = (open_cell(name, given.folder) for name in given.cells)
    grid.print_table(output, pair(first, second))
    return DONE
