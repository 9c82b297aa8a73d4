"""``awq-bench doctor`` says what this machine has, and what it lacks for what."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import asked, exit_codes, options
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  awq-bench doctor

  # are the texts where a comparison would look for them?
  awq-bench doctor --data-dir ~/texts

what comes out: printed, a line for each thing, and what lacks without it.
It changes nothing.
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "doctor",
        usage="awq-bench doctor [--data-dir DIR]",
        about="what this machine has, and what it lacks for what",
        description="Look at this machine: packages, processor, GPU, the hubs, texts, and other "
        "packages that clash with this one. For each thing that lacks, say what it would give.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR),
    )
    options.data_dir(parser)


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Print what this machine has; returns the exit code."""
    from bench.cli import machine

    machine.print_findings(output, data_dir=asked.named_data_dir(given))
    return DONE
