"""``awq-bench rebaseline`` makes a baseline anew, after showing what changed."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import asked, exit_codes, options, show
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR, INTERRUPTED
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  # what changed against the baseline; nothing is written
  awq-bench rebaseline baselines/my-model.json

  # accept it, with another tolerance
  awq-bench rebaseline baselines/my-model.json --accept \\
      --tolerance 'perplexity=3%:measured on the new text'
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "rebaseline",
        usage="awq-bench rebaseline FILE [--accept]",
        about="make a baseline anew, after showing what changed",
        description="Measure again what a baseline declares, reruns included, and show the change "
        "against it. Only with --accept the file is written over.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED),
    )
    group = parser.add_argument_group("gate")
    group.add_argument("file", type=options.path, metavar="FILE", help="the baseline (required)")
    options.tolerances(group)
    group.add_argument(
        "--accept", action="store_true", help="write the new baseline over it (default: no)"
    )
    running = parser.add_argument_group("running")
    options.data_dir(running)
    options.tasks_data(running)


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Measure the baseline again, and write it if it is accepted; returns the exit code."""
    from bench.gate.baseline import write
    from bench.gate.make import remake
    from bench.gate.parts import discard
    from bench.gate.units import parse_tolerances

    made, result, parts = remake(
        given.file,
        parse_tolerances(given.tolerance or ()),
        data_dir=asked.data_dir(given),
        tasks_data=given.tasks_data,
        keep=True,
        reporter=reporter,
    )
    show.gates(output, [result])
    output.print("\nThe new baseline:")
    show.baseline(output, made, given.file)
    if not given.accept:
        output.print()
        show.line(output, f"Nothing was written; --accept writes this over {given.file}")
        return DONE
    write(made, given.file, force=True)
    discard(parts, reporter)
    output.print()
    show.written(output, given.file)
    return DONE
