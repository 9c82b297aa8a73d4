"""The command line: ``awq-bench COMMAND``."""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import signal
import tempfile
import textwrap
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from rich.console import Console

from bench.cli import exit_codes
from bench.cli.exit_codes import (
    BAD_INPUT,
    CELL_FAILED,
    DONE,
    GATE_FAILED,
    INTERNAL_ERROR,
    INTERRUPTED,
    NO_VERDICT,
)
from bench.comparison.progress import Reporter
from bench.records import processors
from bench.report import escape
from quantcore.errors import InputError
from quantcore.versions import untried

if TYPE_CHECKING:
    from bench.comparison.compare import Outcome
    from bench.comparison.request import Request
    from bench.gate.gate import Baseline

_WIDTH = 78

# Commands that run models.
_COMPUTING = ("compare", "quantize", "evaluate", "baseline", "gate", "rebaseline")

_MEASURED = (DONE, BAD_INPUT, CELL_FAILED, INTERNAL_ERROR, INTERRUPTED)

_START = """\
start here:
  # what this machine has, and what it lacks
  awq-bench doctor

  # the shipped model on the shipped text: about 3 minutes on two cores
  awq-bench compare --text embedded

  # your own model: a local folder, or a name on the hub
  awq-bench compare ./my-model --text traffic.txt

environment:
  AWQ_BENCH_DATA    default of --data-dir
  AWQ_BENCH_CACHE   where the native kernel and its timings are kept
  AWQ_BENCH_NATIVE=0  do without the native kernel
  HF_HUB_OFFLINE=1  ask no hub: only local folders and what its cache holds
"""

_COMPARE = """\
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

_QUANTIZE = """\
examples:
  # AWQ with clipping, calibrated on your prompts
  awq-bench quantize ./my-model --method awq+clip --scheme int4-g128 \\
      --calibration prompts.jsonl --out ./my-model-int4

  # GPTQ with a scale per output channel; down_proj stays as it is
  awq-bench quantize ./my-model --method gptq --scheme int8-channel-sym \\
      --calibration self --exclude '*.down_proj' --out ./my-model-int8

  # its perplexity, on the text of your choice
  awq-bench evaluate ./my-model-int4 --text traffic.txt

what comes out, in the folder of --out:
  an ordinary Transformers folder that any tool can load. Its weights are
  those that a packed checkpoint decodes to (in float32 to the last bit), and
  awq_bench.json beside them says how they were made.

The folder is written whole or not at all: interrupted (exit code 130), the
command leaves nothing.
"""

_EVALUATE = """\
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

_BASELINE = """\
examples:
  # what 4 bits cost this model on your text, and how much that varies
  awq-bench baseline ./my-model --method awq+clip --scheme int4-g128 \\
      --suites perplexity,divergence --text traffic.txt \\
      --calibration prompts.jsonl --out baselines/my-model.json

  # tasks too, and a tolerance of your own with its reason
  awq-bench baseline reference --method gptq --scheme int4-g128 \\
      --suites perplexity,json,tool_calls --text embedded \\
      --tolerance 'perplexity=2%:half of what INT4 costs' --out gptq.json

  # a folder that is quantized already, beside the model it was made of
  awq-bench baseline ./my-model-int4 --source ./my-model \\
      --text traffic.txt --out baselines/folder.json

what comes out: one file to commit, with every window and item of both models,
a tolerance with its reason for each gate, and what reruns showed: at least five
calibration seeds, batches of 1, other threads, another backend. Printed are the
size from which a regression is found, and 1,000 null runs (resampled reruns).
"""

_GATE = """\
examples:
  # measure again what the baseline declares, and decide
  awq-bench gate --baseline baselines/my-model.json

  # all in a folder; reports for CI (on GitHub the step summary too)
  awq-bench gate --baseline baselines --report gate-report

  # two of them
  awq-bench gate --baseline baselines/my-model.json \\
      --baseline baselines/folder.json

  # a quantized folder against it, beside the model it was made of
  awq-bench gate ./my-model-int4 --source ./my-model \\
      --baseline baselines/my-model.json

  # a finished comparison instead of measuring
  awq-bench compare ./my-model --methods awq+clip --schemes int4-g128 \\
      --suites perplexity,divergence --text traffic.txt \\
      --calibration prompts.jsonl --out awq-bench-runs/nightly
  awq-bench gate --baseline baselines/my-model.json \\
      --run awq-bench-runs/nightly

what comes out: a table for each baseline; with --report gate.md, gate.json and
gate.xml (JUnit).
"""

_REBASELINE = """\
examples:
  # what changed against the baseline; nothing is written
  awq-bench rebaseline baselines/my-model.json

  # accept it, with another tolerance
  awq-bench rebaseline baselines/my-model.json --accept \\
      --tolerance 'perplexity=3%:measured on the new text'
"""

_PAIR = """\
examples:
  # does clipping help at 3 bits, on the tasks?
  awq-bench compare ./my-model --suites perplexity,tool_calls --limit 50 \\
      --methods awq,awq+clip --schemes int3-g128 --text traffic.txt \\
      --calibration self --out runs/clip
  awq-bench pair runs/clip awq+clip@int3-g128 awq@int3-g128

what comes out: printed, a line for each suite that both cells ran.
"""

_TABLES = """\
examples:
  # after a run that was killed, or with another price
  awq-bench compare ./my-model --methods rtn --text traffic.txt --out runs/rtn
  awq-bench tables runs/rtn --price-per-hour 2.5

what comes out: in DIR, the tables, charts and report.md anew; its records stay.
"""

_LIST = """\
examples:
  awq-bench list

what comes out: printed, by kind, each name with a line. They are the values
of --methods, --schemes, --suites, --text, --calibration, --checkpoint-format.
"""

_DOCTOR = """\
examples:
  awq-bench doctor

  # are the texts where a comparison would look for them?
  awq-bench doctor --data-dir ~/texts

what comes out: printed, a line for each thing, and what lacks without it.
It changes nothing.
"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """At most 80 columns on any terminal: longer lines are hard to read."""

    def __init__(self, prog: str) -> None:
        width = min(_WIDTH, shutil.get_terminal_size().columns - 2)
        super().__init__(prog, max_help_position=26, width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Names with hyphens stay whole, so that they can be searched for and copied."""
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class _Parser(argparse.ArgumentParser):
    """What was typed comes back in its errors."""

    def error(self, message: str) -> NoReturn:
        super().error(escape.line(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="awq-bench",
        usage="awq-bench COMMAND [options]",
        description=_filled(
            "Which 4-bit quantization, at what loss? awq-bench quantizes a language model with "
            "AWQ, GPTQ and RTN, measures what each loses against the unquantized model on the "
            "same text, and keeps a record behind every number."
        ),
        epilog=_START + exit_codes.listed(),
        formatter_class=_Help,
    )
    commands = parser.add_subparsers(
        title="commands (each has --help)",
        prog="awq-bench",
        dest="command",
        metavar="COMMAND",
        required=True,
    )
    _add_compare(commands)
    _add_quantize(commands)
    _add_evaluate(commands)
    _add_pair(commands)
    _add_tables(commands)
    _add_baseline(commands)
    _add_gate(commands)
    _add_rebaseline(commands)
    _command(
        commands,
        "list",
        usage="awq-bench list",
        about="everything that can be asked for by name",
        description="List the methods, schemes, suites, texts, model families and checkpoint "
        "formats of this version, each with a line on what it is.",
        epilog=_LIST + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR),
    )
    doctor = _command(
        commands,
        "doctor",
        usage="awq-bench doctor [--data-dir DIR]",
        about="what this machine has, and what it lacks for what",
        description="Look at this machine: packages, processor, GPU, the hubs, texts, and other "
        "packages that clash with this one. For each thing that lacks, say what it would give.",
        epilog=_DOCTOR + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR),
    )
    _data_dir(doctor)
    return parser


_Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"


def _add_compare(commands: _Commands) -> None:
    compare = _command(
        commands,
        "compare",
        usage="awq-bench compare [MODEL] [options]",
        about="every method x scheme on one model: table, chart, records",
        description="Quantize MODEL with every method and scheme, measure each against the "
        "unquantized model on the same windows of text, and print the table. One calibration pass "
        "serves all cells. Without options: the shipped model, four methods, three schemes.",
        epilog=_COMPARE + exit_codes.listed(*_MEASURED),
    )
    _model(compare, default="reference")
    group = compare.add_argument_group("what to compare")
    group.add_argument(
        "--methods",
        type=_names,
        metavar="M,M",
        help="methods, separated by commas; `awq-bench list` names them all "
        "(default: rtn,gptq,awq,awq+clip)",
    )
    group.add_argument(
        "--schemes",
        type=_names,
        metavar="S,S",
        help="how weights are stored: int<bits>-g<weights per scale>, or int<bits>-channel; with "
        "-sym: no zero points (default: int4-g128,int4-g32,int3-g128)",
    )
    group.add_argument(
        "--tasks-schemes",
        type=_names,
        metavar="S,S",
        help="run tasks only for the unquantized model and these schemes, as they take longest "
        "(default: all)",
    )
    _exclude(group)
    _evaluation(compare)
    _tasks(compare)
    _throughput(compare)
    _calibration(compare)
    _running(compare, backend=True)
    _run_output(compare)


def _add_quantize(commands: _Commands) -> None:
    quantize = _command(
        commands,
        "quantize",
        usage="awq-bench quantize MODEL --method M --scheme S --out DIR [options]",
        about="write one quantized model as a folder that other tools load",
        description="Quantize MODEL with one method and scheme, and write it as an ordinary "
        "Transformers folder. It is the model that `awq-bench compare` measures under the same "
        "options.",
        epilog=_QUANTIZE + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED),
    )
    _model(quantize)
    group = quantize.add_argument_group("how to quantize")
    group.add_argument(
        "--method",
        required=True,
        metavar="M",
        help="for example awq+clip; `awq-bench list` names them all (required)",
    )
    group.add_argument(
        "--scheme",
        required=True,
        metavar="S",
        help="how weights are stored: int<bits>-g<weights per scale>, or int<bits>-channel; with "
        "-sym: no zero points (required)",
    )
    _exclude(group)
    _calibration(quantize)
    _running(quantize)
    output = quantize.add_argument_group("output")
    output.add_argument(
        "--checkpoint-format",
        default="hf",
        metavar="F",
        help="hf: an ordinary Transformers folder with the dequantized weights (default: hf)",
    )
    output.add_argument(
        "--out",
        type=_path,
        required=True,
        metavar="DIR",
        help="folder to write; it must not exist, or be empty (required)",
    )


def _add_evaluate(commands: _Commands) -> None:
    evaluate = _command(
        commands,
        "evaluate",
        usage="awq-bench evaluate MODEL [options]",
        about="measure one model as it is",
        description="Measure MODEL as it is, its perplexity or any suite: an unquantized model, or "
        "a folder that `awq-bench quantize` wrote. Nothing is quantized.",
        epilog=_EVALUATE + exit_codes.listed(*_MEASURED),
    )
    _model(evaluate)
    _evaluation(evaluate)
    _tasks(evaluate)
    _throughput(evaluate)
    _running(evaluate, backend=True)
    _run_output(evaluate)


def _add_pair(commands: _Commands) -> None:
    pair = _command(
        commands,
        "pair",
        usage="awq-bench pair DIR CELL CELL",
        about="any two cells of a comparison against each other",
        description="Compare two cells that `awq-bench compare` measured, window by window and "
        "item by item: differences with paired intervals, flips, and whether they are more than "
        "chance.",
        epilog=_PAIR + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR),
    )
    _compared(pair).add_argument(
        "cells",
        metavar="CELL",
        nargs=2,
        help="METHOD@SCHEME, such as awq+clip@int4-g128, or unquantized; two of them (required)",
    )


def _add_tables(commands: _Commands) -> None:
    tables = _command(
        commands,
        "tables",
        usage="awq-bench tables DIR [--price-per-hour X]",
        about="tables, charts and report of a comparison, drawn again from its records",
        description="Draw again what `awq-bench compare` draws at its end, from the records that "
        "are in DIR, finished or not. Nothing is measured. Records that are damaged are left out, "
        "and named.",
        epilog=_TABLES + exit_codes.listed(DONE, BAD_INPUT, CELL_FAILED, INTERNAL_ERROR),
    )
    _price_per_hour(_compared(tables))


def _compared(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("cells")
    group.add_argument(
        "folder", metavar="DIR", type=_path, help="a folder that `compare` wrote (required)"
    )
    return group


def _add_baseline(commands: _Commands) -> None:
    baseline = _command(
        commands,
        "baseline",
        usage="awq-bench baseline MODEL --method M --scheme S --out FILE [options]",
        about="what a quantization costs now, for a gate to hold it to",
        description="Measure MODEL and its quantized form, and measure again with other "
        "calibration seeds, batches and threads to learn what varies by itself. What comes out is "
        "a file to commit; `awq-bench gate` decides against it.",
        epilog=_BASELINE + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED),
    )
    _model(baseline)
    group = baseline.add_argument_group("how to quantize")
    group.add_argument(
        "--method", metavar="M", help="quantize MODEL on the spot by this method (default: none)"
    )
    group.add_argument(
        "--scheme", metavar="S", help="and this scheme, such as int4-g128 (default: none)"
    )
    _source(group)
    _exclude(group)
    _evaluation(baseline)
    _tasks(baseline)
    _throughput(baseline)
    _calibration(baseline)
    group = baseline.add_argument_group("gate")
    _tolerances(group)
    group.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="calibration seeds to measure again with, at least 5 (default: 5)",
    )
    _running(baseline, backend=True)
    output = baseline.add_argument_group("output")
    output.add_argument(
        "--out", type=_path, required=True, metavar="FILE", help="the file to write (required)"
    )
    output.add_argument(
        "--force", action="store_true", help="write over a baseline that is there (default: no)"
    )


def _add_gate(commands: _Commands) -> None:
    gate = _command(
        commands,
        "gate",
        usage="awq-bench gate [MODEL] --baseline FILE [options]",
        about="pass, fail or no verdict against a baseline",
        description="Measure again what the baseline declares, and decide on the paired change of "
        "what quantization costs: within its tolerance (0), beyond it (1), or no verdict (3), "
        "which a difference of the declaration and a missing metric are too.",
        epilog=_GATE
        + exit_codes.listed(DONE, GATE_FAILED, BAD_INPUT, NO_VERDICT, INTERNAL_ERROR, INTERRUPTED),
    )
    group = gate.add_argument_group("model")
    group.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a model to quantize as the baseline declares, or a quantized folder (default: the "
        "baseline's own)",
    )
    _source(group)
    group.add_argument(
        "--run",
        type=_path,
        metavar="DIR",
        help="a finished comparison to judge instead of measuring (default: none)",
    )
    group = gate.add_argument_group("gate")
    group.add_argument(
        "--baseline",
        type=_path,
        action="append",
        required=True,
        metavar="FILE",
        help="what `awq-bench baseline` wrote, or a folder of such files; may be repeated "
        "(required)",
    )
    running = gate.add_argument_group("running")
    _data_dir(running)
    _tasks_data(running)
    output = gate.add_argument_group("output")
    output.add_argument(
        "--report",
        type=_path,
        metavar="DIR",
        help="folder for gate.md, gate.json and gate.xml (default: none)",
    )


_EACH_ITS_OWN = "every baseline takes a --baseline of its own: --baseline A --baseline B"


def _add_rebaseline(commands: _Commands) -> None:
    again = _command(
        commands,
        "rebaseline",
        usage="awq-bench rebaseline FILE [--accept]",
        about="make a baseline anew, after showing what changed",
        description="Measure again what a baseline declares, reruns included, and show the change "
        "against it. Only with --accept the file is written over.",
        epilog=_REBASELINE + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED),
    )
    group = again.add_argument_group("gate")
    group.add_argument("file", type=_path, metavar="FILE", help="the baseline (required)")
    _tolerances(group)
    group.add_argument(
        "--accept", action="store_true", help="write the new baseline over it (default: no)"
    )
    running = again.add_argument_group("running")
    _data_dir(running)
    _tasks_data(running)


def _source(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--source",
        metavar="MODEL",
        help="the unquantized model that a quantized folder was made of (default: none, the "
        "folder's own outcomes are gated)",
    )


def _tolerances(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tolerance",
        action="append",
        metavar="GATE=V:WHY",
        help="largest change that passes and its reason, such as 'perplexity=0.5%%:what users "
        "accept'; %% for perplexity, size and throughput, nats for divergence, points of accuracy "
        "for tasks; may be repeated (default: twice what reruns show)",
    )


def _command(
    commands: _Commands,
    name: str,
    *,
    usage: str,
    about: str,
    description: str,
    epilog: str,
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        usage=usage,
        help=about,
        description=_filled(description),
        epilog=epilog,
        formatter_class=_Help,
        # What was not given leaves no trace, so that a config file may give it.
        argument_default=argparse.SUPPRESS,
    )


def _filled(text: str) -> str:
    return textwrap.fill(text, _WIDTH)


def _model(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    group = parser.add_argument_group("model")
    group.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a local Transformers folder, a name on the hub, or 'reference', the 6.8 M-parameter "
        f"model that ships with the package ({f'default: {default}' if default else 'required'})",
    )
    group.add_argument(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of a hub model (default: the hub's own, main)",
    )


def _exclude(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--exclude",
        action="append",
        metavar="PATTERN",
        help="leave linears unquantized: whole parts of a name, such as up_proj or layers.1, or "
        "with wildcards the full name, such as '*.down_proj' or 'model.layers.0.*'; may be "
        "repeated (default: none)",
    )


def _evaluation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("evaluation")
    group.add_argument(
        "--suites",
        type=_names,
        metavar="S,S",
        help="what is measured, separated by commas: perplexity, divergence, json, tool_calls, "
        "multilingual, code, long_prompt, throughput (default: perplexity)",
    )
    group.add_argument(
        "--text",
        metavar="NAME|FILE",
        help="wikitext2, embedded (ships with the package), or a .txt file, or a .jsonl file with "
        "a 'text' in each line (default: wikitext2 if it can be had, else embedded)",
    )
    group.add_argument(
        "--seqlen",
        type=int,
        metavar="TOKENS",
        help="length of a window (default: 2048, or the model's context if that is less; 256 on "
        "the embedded text)",
    )
    group.add_argument(
        "--windows",
        type=int,
        metavar="N",
        help="only so many windows, spread evenly over the text (default: all)",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="windows in a forward pass (default: as many as make 2048 tokens on a CPU, 16384 on "
        "a GPU)",
    )


def _tasks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("tasks")
    group.add_argument(
        "--tasks",
        type=_names,
        metavar="T,T",
        help="any tasks of lm-eval by name, beside the suites, such as hellaswag (default: none)",
    )
    group.add_argument(
        "--tasks-source",
        metavar="SOURCE",
        help="embedded: the items that ship with the package; standard: JSONSchemaBench, BFCL, "
        "Belebele, MGSM, Global-MMLU, HumanEval, MBPP, RULER (default: embedded)",
    )
    _tasks_data(group)
    group.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="at most N items of every lm-eval task, drawn by --seed; translations stay together "
        "(default: all)",
    )
    group.add_argument(
        "--num-fewshot",
        type=int,
        metavar="N",
        help="worked examples in every prompt (default: as each task says, 0 to 2)",
    )
    group.add_argument(
        "--chat-template",
        action="store_true",
        help="put prompts into the tokenizer's chat template (default: False, plain prompts)",
    )
    group.add_argument(
        "--lengths",
        type=_numbers,
        metavar="N,N",
        help="tokens of long_prompt's prompts (default: powers of two from 256 to the context, at "
        "most 4096)",
    )
    group.add_argument(
        "--allow-code-execution",
        action="store_true",
        help="run the programs that the model writes for suite code, in a sandbox (default: "
        "False, such suites are refused)",
    )


def _throughput(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("throughput")
    group.add_argument(
        "--throughput-backends",
        type=_names,
        metavar="B,B",
        help="backends whose speed is measured, in turn with the unquantized model's "
        "(default: that of --backend, or auto)",
    )
    group.add_argument(
        "--batch-sizes", type=_numbers, metavar="N,N", help="sequences at once (default: 1,4)"
    )
    group.add_argument(
        "--prompt-lengths",
        type=_numbers,
        metavar="N,N",
        help="tokens of a prompt (default: 128,512)",
    )
    group.add_argument(
        "--new-tokens",
        type=int,
        metavar="N",
        help="tokens written after it, 2 or more (default: 32)",
    )
    group.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help="runs of each kind, in turn with the unquantized model; 2 or more, and 5 for "
        "intervals (default: 5)",
    )
    _price_per_hour(group)


def _price_per_hour(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--price-per-hour",
        type=float,
        metavar="X",
        help="what the machine costs; adds the modelled cost of a million tokens (default: none)",
    )


def _calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration",
        metavar="NAME|FILE",
        help="wikitext2, c4, pileval; self: the model writes it, no data needed; or a .txt file, "
        "or a .jsonl file with 'text', 'messages' or 'input_ids' in each line (default: embedded "
        "for 'reference', else wikitext2 if it can be had, else self)",
    )
    group.add_argument(
        "--calibration-samples", type=int, metavar="N", help="how many sequences (default: 128)"
    )
    group.add_argument(
        "--calibration-seed",
        type=int,
        metavar="N",
        help="where its sequences start (default: that of --seed)",
    )
    group.add_argument(
        "--calibration-seqlen",
        type=int,
        metavar="TOKENS",
        help="length of a sequence (default: 512, or the model's context if that is less)",
    )


def _running(parser: argparse.ArgumentParser, *, backend: bool = False) -> None:
    group = parser.add_argument_group("running")
    if backend:
        group.add_argument(
            "--backend",
            metavar="B",
            help="run quantized linears from their codes: auto, triton (a GPU), cpu, or dequant "
            "(default: none, exactly the dequantized weights; the record says which)",
        )
    group.add_argument(
        "--device", metavar="D", help="auto, cpu or cuda (default: auto, the GPU if there is one)"
    )
    group.add_argument(
        "--dtype",
        metavar="D",
        help="what the model runs in: auto, float32, float16 or bfloat16 (default: auto, which is "
        "float32 on a CPU and the model's own on a GPU)",
    )
    group.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="of everything random: where calibration sequences start, what `self` writes, "
        "resamples of intervals (default: 0)",
    )
    _data_dir(group)
    group.add_argument(
        "--config",
        type=_path,
        metavar="FILE.toml",
        help="options from a TOML file, without the dashes in front, such as "
        "calibration-samples = 64; options given here win (default: none)",
    )


def _run_output(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out",
        type=_path,
        metavar="DIR",
        help="folder for what comes out; one that holds the same comparison is gone on with "
        "(default: awq-bench-runs/MODEL-TIME, new)",
    )


def _data_dir(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--data-dir",
        type=_path,
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder with local copies of the texts, such as wikitext-2-raw-v1/test.jsonl "
        "(default: $AWQ_BENCH_DATA, else none)",
    )


def _tasks_data(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--tasks-data",
        type=_path,
        metavar="DIR",
        help="folder with local copies of data sets, each under its name on the hub, such as "
        "DIR/openai/openai_humaneval; BFCL's data files in DIR/bfcl (default: none)",
    )


def _path(value: str) -> Path:
    if not value:  # of a variable of the shell that is not set; "" would be the folder one is in
        raise argparse.ArgumentTypeError("it is empty; name a place")
    return Path(value)


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _numbers(value: str) -> tuple[int, ...]:
    try:
        return tuple(int(name) for name in _names(value))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{value!r}: give whole numbers, separated by commas"
        ) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    parser = _parser()
    try:
        known, beyond = parser.parse_known_args(arguments)
        if beyond:
            files = known.command == "gate" and not any(word.startswith("-") for word in beyond)
            fix = f"; {_EACH_ITS_OWN}" if files else f"; see awq-bench {known.command} --help"
            parser.error(f"unrecognized arguments: {' '.join(beyond)}{fix}")
    except SystemExit as stop:  # argparse has printed help (0) or what is wrong (2)
        return int(stop.code or 0)
    parsed = vars(known)
    output = Console()
    reporter = Reporter(Console(stderr=True))
    command = parsed.pop("command")
    given = dict(parsed)  # commands take out of `parsed` what they have read
    try:
        _clean_up_when_ended()
        if command in _COMPUTING:
            processors.share(reporter.say)
        _quiet_libraries()
        return _COMMANDS[command](parsed, output, reporter)
    except InputError as error:
        reporter.fail(str(error))
        return BAD_INPUT
    except KeyboardInterrupt as stop:
        kept = "nothing was written; run the same command again"
        if command in ("compare", "evaluate", "baseline", "rebaseline"):
            kept = "what is finished is kept, the same command goes on from there"
        reporter.say(f"interrupted; {kept}")
        return stop.code if isinstance(stop, _Ended) else INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and _is_the_users(error, _places({**given, **parsed})):
            where = f"{error.filename or 'a file'}: {error.strerror}"
            reporter.say(f"error: {where}; check the path, its rights and the free space")
            return BAD_INPUT
        for line in traceback.format_exc().splitlines():  # the error's text may hold anything
            reporter.say(line)
        reporter.say("internal error: this is ours to mend; please report it", style="bold red")
        for sentence in untried().values():
            reporter.say(f"it may come of this: {sentence}")
        return INTERNAL_ERROR


class _Ended(KeyboardInterrupt):
    """A signal that asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number
        """As shells have it."""


def _clean_up_when_ended() -> None:
    """Have SIGTERM and SIGHUP end a command as Ctrl-C does, with nothing half-written left."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: what cleans up is not ended
        raise _Ended(number)

    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # Who ignores one (nohup), or has taken it, keeps it so.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)


_OF_A_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
)
"""No room, no rights, a name too long: for the user to change, wherever it arises."""


_PLACES_IN_VARIABLES = ("AWQ_BENCH_CACHE", "AWQ_BENCH_DATA", "GITHUB_STEP_SUMMARY", "TMPDIR")


def _places(parsed: Mapping[str, Any]) -> list[Path]:
    """Files and folders that options, a configuration file or variables name, and our own."""
    variables = [os.environ.get(name) for name in _PLACES_IN_VARIABLES]
    values = [*parsed.values(), *filter(None, variables), "awq-bench-runs"]
    return [Path(one).absolute() for one in values if isinstance(one, Path | str)]


def _is_the_users(error: OSError, places: Sequence[Path]) -> bool:
    """Whether an error is about a place that the user named, or what only the user can change.

    Any other is a defect of this program. So is a file that is not there, unless the user named
    it, or the place in which it should be is gone: what lies in such a place is our own.
    """
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)  # met while writing: no file is named
    path = Path(os.fsdecode(error.filename)).absolute()
    if error.errno == errno.ENOENT:
        holders = [place for place in places if path.is_relative_to(place)]
        return path in places or any(not place.exists() for place in holders)
    return error.errno in _OF_A_MACHINE or any(path.is_relative_to(one) for one in places)


def _quiet_libraries() -> None:
    """Our own bars and errors say what matters; those of the libraries talk over them."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _request(parsed: dict[str, Any], *, command: str) -> Request:
    """Options over the config file over the defaults.

    Raises:
        InputError: an unreadable config, an unknown key or a value of the wrong type.
    """
    from bench.comparison.config import config_values
    from bench.comparison.request import Request

    kinds = {f.name: str(f.type) for f in fields(Request)}
    config = parsed.pop("config", None)
    values = {} if config is None else config_values(config)
    if "out" in values:
        parsed.setdefault("out", values.pop("out"))
    for name, value in parsed.items():
        if name in kinds and value is not None:
            values[name] = tuple(value) if isinstance(value, list) else value
    if not values.get("model") and command != "compare":
        raise InputError(f"{command} needs a MODEL: a hub name, a local folder, or 'reference'")
    parsed |= {name: value for name, value in values.items() if isinstance(value, Path)}
    if "data_dir" not in values and os.environ.get("AWQ_BENCH_DATA"):
        values["data_dir"] = Path(os.environ["AWQ_BENCH_DATA"])
    _data_folder(values)
    return Request(**values)


def _compare(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    return _run(parsed, output, reporter, command="compare")


def _evaluate(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    none: dict[str, Any] = {"methods": (), "schemes": ()}
    return _run({**parsed, **none}, output, reporter, command="evaluate")


def _run(parsed: dict[str, Any], output: Console, reporter: Reporter, *, command: str) -> int:
    from bench.comparison.compare import compare

    request = _request(parsed, command=command)
    outcome = compare(request, out=parsed.get("out"), reporter=reporter)
    return _show(output, outcome)


def _tables(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.comparison.redraw import redraw

    price = parsed.get("price_per_hour")
    outcome, left_out = redraw(parsed["folder"], price_per_hour=price, say=reporter)
    code = _show(output, outcome)
    return CELL_FAILED if left_out else code


def _show(output: Console, outcome: Outcome) -> int:
    """Print a comparison's tables, what failed, and where all is; its exit code."""
    from bench.report import tables

    if not output.is_terminal:
        output.width = 120  # a file or a pipe has no edge to fold lines at
    for layout in outcome.tables:
        tables.print_table(output, layout)
    if outcome.failed:
        output.print()
        for line in tables.failures(outcome.failed, outcome.records[0].cell.suites):
            output.print(escape.terminal(line, style="bold red"), soft_wrap=True)
        again = f"the same command with --out {outcome.folder} runs what failed, and nothing else"
        _say(output, again)
    output.print()
    shown = (path.name for path in outcome.folder.iterdir() if path.name != "unfinished")
    files = ", ".join(sorted(name for name in shown if not name.startswith(".")))
    _say(output, f"Written to {outcome.folder}: {files}")
    return CELL_FAILED if outcome.failed else DONE


def _say(output: Console, text: str) -> None:
    """A line about what was done, in the output."""
    output.print(escape.terminal(text), soft_wrap=True)


def _quantize(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.comparison.quantize import quantize

    method, scheme, out = parsed.pop("method"), parsed.pop("scheme"), parsed.pop("out")
    checkpoint_format = parsed.pop("checkpoint_format", "hf")
    folder = quantize(
        _request(parsed, command="quantize"),
        method=method,
        scheme=scheme,
        checkpoint_format=checkpoint_format,
        out=out,
        reporter=reporter,
    )
    _say(output, f"Written to {folder}")
    return DONE


def _pair(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.report import tables
    from bench.report.pair import open_cell, pair

    one, other = (open_cell(name, parsed["folder"]) for name in parsed["cells"])
    tables.print_table(output, pair(one, other))
    return DONE


def _list(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.cli.listing import print_list

    print_list(output)
    return DONE


def _doctor(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.cli.doctor import print_report

    folder = parsed.get("data_dir") or os.environ.get("AWQ_BENCH_DATA")
    print_report(output, data_dir=None if folder is None else Path(folder))
    return DONE


def _baseline(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.gate import baseline, gate

    out, force = parsed.pop("out"), parsed.pop("force", False)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file in it, such as {out}/b.json")
    _refuse_unwritable("--out", out)
    if out.exists() and not force:
        raise InputError(f"{out} is there already; give --force to write over it")
    if out.exists() and not _is_baseline(out):
        raise InputError(
            f"--out {out} was not written by `awq-bench baseline`, and --force writes over nothing "
            "else; name another file"
        )
    tolerances = baseline.parse_tolerances(parsed.pop("tolerance", []))
    seeds, source = parsed.pop("seeds", baseline.SEEDS), parsed.pop("source", None)
    method, scheme = parsed.pop("method", None), parsed.pop("scheme", None)
    if (method is None) != (scheme is None):
        raise InputError("--method and --scheme go together; give both, or neither")
    parsed["methods"] = () if method is None else (method,)
    parsed["schemes"] = () if scheme is None else (scheme,)
    request = _request(parsed, command="baseline")
    if not request.methods and source is None and not baseline.is_quantized(request.model):
        reporter.warn(
            f"nothing is quantized here: {request.model} is gated as it is; --method and --scheme "
            "quantize it"
        )
    before = _readable(out) if out.exists() else None
    parts = baseline.parts_folder(request, source)
    made = baseline.make(
        request, tolerances, source=source, seeds=seeds, parts=parts, reporter=reporter
    )
    if before is not None:
        _show_gates(output, [baseline.judge_made(before, out, made)])
    gate.write(made, out, force=force)
    _show_made(output, made, out)
    baseline.discard(parts, reporter)
    output.print()
    _say(output, f"Written to {out}")
    return DONE


def _is_baseline(path: Path) -> bool:
    """Whether a file is a baseline, whole or not any more."""
    try:
        return '"baseline_version"' in path.read_text("utf-8")
    except (OSError, ValueError):
        return False


def _refuse_unwritable(option: str, path: Path) -> None:
    """Before anything is measured: what could not be written at the end."""
    place = next(parent for parent in path.absolute().parents if parent.exists())
    if not place.is_dir():
        raise InputError(f"{option} {path}: {place} is a file, not a folder; name another place")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:  # also where the rights would allow it
        raise InputError(
            f"{option} {path}: {place} cannot be written ({error.strerror}); name another place"
        ) from error


def _gate(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.gate import baseline
    from bench.gate import report as gate_report

    model, folder = parsed.get("model"), parsed.get("report")
    if model is not None and _holds_baselines(Path(model)):
        raise InputError(
            f"MODEL {model}: a model is a folder with config.json, or a name on the hub; "
            f"{_EACH_ITS_OWN}"
        )
    if folder is not None and folder.exists() and not folder.is_dir():
        raise InputError(f"--report {folder} is a file; name a folder")
    if folder is not None:
        _refuse_unwritable("--report", folder)
    results = baseline.gate(
        parsed["baseline"],
        model=model,
        source=parsed.get("source"),
        run=parsed.get("run"),
        data_dir=_data_folder(parsed),
        tasks_data=parsed.get("tasks_data"),
        reporter=reporter,
    )
    _show_gates(output, results)
    outcomes = {result.outcome for result in results}
    code = GATE_FAILED if "fail" in outcomes else NO_VERDICT if "no verdict" in outcomes else DONE
    try:
        gate_report.write(results, folder)
        if folder is not None:
            _say(output, f"Written to {folder}")
    except InputError as error:  # of --report or GITHUB_STEP_SUMMARY; the verdict stays
        if code == DONE:
            raise
        reporter.warn(f"no report: {error}")
    return code


def _holds_baselines(place: Path) -> bool:
    """Whether a baseline, or a folder of them, stands where a model should."""
    folder_of_them = not (place / "config.json").is_file() and any(place.glob("*.json"))
    return place.suffix == ".json" or folder_of_them


def _rebaseline(parsed: dict[str, Any], output: Console, reporter: Reporter) -> int:
    from bench.gate import baseline, gate

    path = parsed["file"]
    made, result, parts = baseline.remake(
        path,
        baseline.parse_tolerances(parsed.get("tolerance", [])),
        data_dir=_data_folder(parsed),
        tasks_data=parsed.get("tasks_data"),
        keep=True,
        reporter=reporter,
    )
    _show_gates(output, [result])
    output.print("\nThe new baseline:")
    _show_made(output, made, path)
    if not parsed.get("accept", False):
        output.print()
        _say(output, f"Nothing was written; --accept writes this over {path}")
        return DONE
    gate.write(made, path, force=True)
    baseline.discard(parts, reporter)
    output.print()
    _say(output, f"Written to {path}")
    return DONE


def _readable(path: Path) -> Any:
    """The baseline that is about to be written over; None for one that cannot be read."""
    from bench.gate import gate

    try:
        return gate.read(path)
    except InputError:
        return None


def _show_made(output: Console, made: Baseline, path: Path) -> None:
    """A new baseline's gates and tolerances, and its null runs."""
    from bench.gate import baseline
    from bench.gate import report as gate_report
    from bench.gate.null_runs import null_runs
    from bench.report import tables

    _show_gates(output, [baseline.judge_made(made, path, made)])
    rates = null_runs(made)
    if rates is not None:
        tables.print_table(output, gate_report.rates_grid(rates))


def _show_gates(output: Console, results: Sequence[Any]) -> None:
    from bench.gate import report as gate_report
    from bench.report import tables

    if not output.is_terminal:
        output.width = 120
    for result in results:
        tables.print_table(output, gate_report.grid(result))


def _data_folder(parsed: dict[str, Any]) -> Path | None:
    named = parsed.get("data_dir") or os.environ.get("AWQ_BENCH_DATA")
    folder = None if named is None else Path(named)
    if folder is not None and not folder.is_dir():
        raise InputError(f"data folder {folder} (--data-dir or AWQ_BENCH_DATA) is not there")
    return folder


_COMMANDS = {
    "baseline": _baseline,
    "gate": _gate,
    "rebaseline": _rebaseline,
    "compare": _compare,
    "quantize": _quantize,
    "evaluate": _evaluate,
    "pair": _pair,
    "tables": _tables,
    "list": _list,
    "doctor": _doctor,
}
