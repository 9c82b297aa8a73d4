"""``awq-bench evaluate`` measures one model as it is."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import asked, exit_codes, options, show
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  # perplexity of a model on your text
  awq-bench evaluate ./my-model --text traffic.txt

  # in windows of 64 tokens, 16 of them spread evenly over the text
  awq-bench evaluate ./my-model --text traffic.txt --seqlen 64 --windows 16

  # its answers: JSON and tool calls, 20 items of each task
  awq-bench evaluate ./my-model --suites json,tool_calls --limit 20

what comes out, in the folder of --out:
  report.md, table.md, .csv and .json (of perplexity), tasks.md, .csv and .json
  (if suites were asked for), comparison.json, and records/unquantized.json
  with every window and every answer

To see what quantizing costs use `awq-bench compare`: it pairs windows with the
unquantized model's, which makes intervals many times narrower.
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "evaluate",
        usage="awq-bench evaluate MODEL [options]",
        about="measure one model as it is",
        description="Measure MODEL as it is, its perplexity or any suite: an unquantized model, or "
        "a folder that `awq-bench quantize` wrote. Nothing is quantized.",
        epilog=_EXAMPLES + exit_codes.listed(*exit_codes.OF_A_COMPARISON),
    )
    options.model(parser)
    options.evaluation(parser)
    options.tasks(parser)
    options.throughput(parser)
    options.running(parser, backend=True)
    options.run_output(parser)


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Measure the model and print its tables; returns the exit code."""
    from bench.comparison.compare import compare

    request = asked.request(given, command="evaluate", methods=(), schemes=())
    return show.outcome(output, compare(request, out=given.out, reporter=reporter))
