"""``awq-bench compare`` measures every method and scheme on one model."""

from __future__ import annotations

import argparse

from rich.console import Console

from bench.cli import asked, exit_codes, options, show
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter

_EXAMPLES = """\
examples:
  # the shipped model on the shipped text: about 3 minutes on two cores
  awq-bench compare --text embedded

  # your model on your traffic, calibrated on your prompts
  awq-bench compare ./my-model --text traffic.txt --calibration prompts.jsonl

  # one question, quickly: does clipping help at 3 bits?
  awq-bench compare ./my-model --methods awq,awq+clip --schemes int3-g128 \\
      --text traffic.txt --windows 16 --calibration self

  # a model of the hub, on the text that the papers use
  awq-bench compare Qwen/Qwen3-0.6B --text wikitext2 --calibration c4

  # what perplexity misses: JSON, tool calls, languages, long prompts
  awq-bench compare ./my-model --schemes int4-g128 --calibration self \\
      --suites perplexity,divergence,json,tool_calls,multilingual,long_prompt

  # the field's own sets, from local copies, 50 items of each task
  awq-bench compare ./my-model --suites json,code --tasks-source standard \\
      --tasks-data ~/sets --limit 50 --allow-code-execution

what comes out, in the folder of --out:
  report.md                     the table, the chart, protocol and provenance
  table.md, table.csv, .json    the table, for people and for programs
  perplexity_SCHEME.png, .svg   the chart, of INT4-g128 or else the first scheme
  tasks.md, tasks.csv, .json    divergence and accuracy by suite, if asked for
  throughput.md, .csv, .png     speed, latency and memory, if asked for
  tasks_SCHEME.png, .svg        their changes, for each scheme that ran tasks
  records/METHOD_SCHEME.json    each cell, with every window and every answer
  comparison.json               what was asked for

An interrupted comparison goes on with --out and without.
"""


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "compare",
        usage="awq-bench compare [MODEL] [options]",
        about="every method x scheme on one model: table, chart, records",
        description="Quantize MODEL with every method and scheme, measure each against the "
        "unquantized model on the same windows of text, and print the table. One calibration pass "
        "serves all cells. Without options: the shipped model, four methods, three schemes.",
        epilog=_EXAMPLES + exit_codes.listed(*exit_codes.OF_A_COMPARISON),
    )
    options.model(parser, default="reference")
    group = parser.add_argument_group("what to compare")
    group.add_argument(
        "--methods",
        type=options.names,
        metavar="M,M",
        help="methods, separated by commas; `awq-bench list` names them all "
        "(default: rtn,gptq,awq,awq+clip)",
    )
    group.add_argument(
        "--schemes",
        type=options.names,
        metavar="S,S",
        help="how weights are stored: int<bits>-g<weights per scale>, or int<bits>-channel; with "
        "-sym: no zero points (default: int4-g128,int4-g32,int3-g128)",
    )
    group.add_argument(
        "--tasks-schemes",
        type=options.names,
        metavar="S,S",
        help="run tasks only for the unquantized model and these schemes, as they take longest "
        "(default: all)",
    )
    options.exclude(group)
    options.evaluation(parser)
    options.tasks(parser)
    options.throughput(parser)
    options.calibration(parser)
    options.running(parser, backend=True)
    options.run_output(parser)


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Measure all cells and print their tables; returns the exit code."""
    from bench.comparison.compare import compare

    request = asked.request(given, command="compare")
    return show.outcome(output, compare(request, out=given.out, reporter=reporter))
