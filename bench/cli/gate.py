"""``awq-bench gate`` decides whether what quantization costs has changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from bench.cli import asked, exit_codes, options, places, show
from bench.cli.exit_codes import (
    BAD_INPUT,
    DONE,
    GATE_FAILED,
    INTERNAL_ERROR,
    INTERRUPTED,
    NO_VERDICT,
)
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter
from quantcore.errors import InputError

EACH_ITS_OWN = "every baseline takes a --baseline of its own: --baseline A --baseline B"
"""What to do about words that look like more baselines after one option."""

_EXAMPLES = """\
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


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    parser = add_command(
        commands,
        "gate",
        usage="awq-bench gate [MODEL] --baseline FILE [options]",
        about="pass, fail or no verdict against a baseline",
        description="Measure again what the baseline declares, and decide on the paired change of "
        "what quantization costs: within its tolerance (0), beyond it (1), or no verdict (3), "
        "which a difference of the declaration and a missing metric are too.",
        epilog=_EXAMPLES
        + exit_codes.listed(DONE, GATE_FAILED, BAD_INPUT, NO_VERDICT, INTERNAL_ERROR, INTERRUPTED),
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a model to quantize as the baseline declares, or a quantized folder (default: the "
        "baseline's own)",
    )
    options.source(group)
    group.add_argument(
        "--run",
        type=options.path,
        metavar="DIR",
        help="a finished comparison to judge instead of measuring (default: none)",
    )
    group = parser.add_argument_group("gate")
    group.add_argument(
        "--baseline",
        type=options.path,
        action="append",
        required=True,
        metavar="FILE",
        help="what `awq-bench baseline` wrote, or a folder of such files; may be repeated "
        "(required)",
    )
    running = parser.add_argument_group("running")
    options.data_dir(running)
    options.tasks_data(running)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--report",
        type=options.path,
        metavar="DIR",
        help="folder for gate.md, gate.json and gate.xml (default: none)",
    )


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Measure what the baselines declare and print the verdicts; returns the exit code."""
    from bench.gate import report as gate_report
    from bench.gate.run import gate

    _refuse_mistaken(given.model, given.report)
    results = gate(
        given.baseline,
        model=given.model,
        source=given.source,
        run=given.run,
        data_dir=asked.data_dir(given),
        tasks_data=given.tasks_data,
        reporter=reporter,
    )
    show.gates(output, results)
    outcomes = {result.outcome for result in results}
    code = GATE_FAILED if "fail" in outcomes else NO_VERDICT if "no verdict" in outcomes else DONE
    try:
        gate_report.write(results, given.report)
        if given.report is not None:
            show.written(output, given.report)
    except InputError as error:  # of --report or GITHUB_STEP_SUMMARY; the verdict stays
        if code == DONE:
            raise
        reporter.warn(f"no report: {error}")
    return code


def _refuse_mistaken(model: str | None, report: Path | None) -> None:
    """Refuse, before anything is measured, a baseline as MODEL and a report without a place."""
    if model is not None and _holds_baselines(Path(model)):
        raise InputError(
            f"MODEL {model}: a model is a folder with config.json, or a name on the hub; "
            f"{EACH_ITS_OWN}"
        )
    if report is not None:
        if report.exists() and not report.is_dir():
            raise InputError(f"--report {report} is a file; name a folder")
        places.refuse_unwritable("--report", report)


def _holds_baselines(place: Path) -> bool:
    """Say whether a baseline, or a folder of them, stands where a model should."""
    folder_of_them = not (place / "config.json").is_file() and any(place.glob("*.json"))
    return place.suffix == ".json" or folder_of_them
