"""``awq-bench baseline`` writes down what a quantization costs now."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bench.cli import asked, exit_codes, options, places, show
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR, INTERRUPTED
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter
from quantcore.errors import InputError

if TYPE_CHECKING:
    from bench.comparison.request import Request
    from bench.gate.baseline import Baseline

_EXAMPLES = """\
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


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "baseline",
        usage="awq-bench baseline MODEL --method M --scheme S --out FILE [options]",
        about="what a quantization costs now, for a gate to hold it to",
        description="Measure MODEL and its quantized form, and measure again with other "
        "calibration seeds, batches and threads to learn what varies by itself. What comes out is "
        "a file to commit; `awq-bench gate` decides against it.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR, INTERRUPTED),
    )
    options.model(parser)
    group = parser.add_argument_group("how to quantize")
    group.add_argument(
        "--method", metavar="M", help="quantize MODEL on the spot by this method (default: none)"
    )
    group.add_argument(
        "--scheme", metavar="S", help="and this scheme, such as int4-g128 (default: none)"
    )
    options.source(group)
    options.exclude(group)
    options.evaluation(parser)
    options.tasks(parser)
    options.throughput(parser)
    options.calibration(parser)
    group = parser.add_argument_group("gate")
    options.tolerances(group)
    group.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="calibration seeds to measure again with, at least 5 (default: 5)",
    )
    options.running(parser, backend=True)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out",
        type=options.path,
        required=True,
        metavar="FILE",
        help="the file to write (required)",
    )
    output.add_argument(
        "--force", action="store_true", help="write over a baseline that is there (default: no)"
    )


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Measure the baseline, show what it holds to, and write it; returns the exit code."""
    from bench.gate.baseline import write
    from bench.gate.judge import judge_made
    from bench.gate.make import make
    from bench.gate.manifest import is_quantized
    from bench.gate.parts import discard, parts_folder
    from bench.gate.reruns import SEEDS
    from bench.gate.units import parse_tolerances

    out, source = given.out, given.source
    _refuse_occupied(out, force=given.force)
    tolerances = parse_tolerances(given.tolerance or ())
    seeds = SEEDS if given.seeds is None else given.seeds
    request = _request(given)
    if not request.methods and source is None and not is_quantized(request.model):
        reporter.warn(
            f"nothing is quantized here: {request.model} is gated as it is; --method and --scheme "
            "quantize it"
        )
    before = _readable(out) if out.exists() else None
    parts = parts_folder(request, source)
    made = make(request, tolerances, source=source, seeds=seeds, parts=parts, reporter=reporter)
    if before is not None:
        show.gates(output, [judge_made(before, out, made)])
    write(made, out, force=given.force)
    show.baseline(output, made, out)
    discard(parts, reporter)
    output.print()
    show.written(output, out)
    return DONE


def _refuse_occupied(out: Path, *, force: bool) -> None:
    """Refuse, before anything is measured, a file that cannot be written or must not be."""
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file in it, such as {out}/b.json")
    places.refuse_unwritable("--out", out)
    if out.exists() and not force:
        raise InputError(f"{out} is there already; give --force to write over it")
    if out.exists() and not _is_baseline(out):
        raise InputError(
            f"--out {out} was not written by `awq-bench baseline`, and --force writes over nothing "
            "else; name another file"
        )


def _is_baseline(path: Path) -> bool:
    """Say whether a file is a baseline, whole or not any more."""
    try:
        return '"baseline_version"' in path.read_text("utf-8")
    except (OSError, ValueError):
        return False


def _request(given: argparse.Namespace) -> Request:
    """Ask for the one method and scheme, or with neither for the model as it is."""
    if (given.method is None) != (given.scheme is None):
        raise InputError("--method and --scheme go together; give both, or neither")
    return asked.request(
        given,
        command="baseline",
        methods=() if given.method is None else (given.method,),
        schemes=() if given.scheme is None else (given.scheme,),
    )


def _readable(path: Path) -> Baseline | None:
    """Read the baseline that is about to be written over; None for one that cannot be read."""
    from bench.gate.baseline import read

    try:
        return read(path)
    except InputError:
        return None
