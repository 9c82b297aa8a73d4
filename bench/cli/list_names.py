"""``awq-bench list`` names everything that can be asked for by name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from bench.cli import exit_codes
from bench.cli.exit_codes import BAD_INPUT, DONE, INTERNAL_ERROR
from bench.cli.parser import Commands, add_command
from bench.comparison.progress import Reporter
from bench.report import escape

_EXAMPLES = """\
examples:
  awq-bench list

what comes out: printed, by kind, each name with a line. They are the values
of --methods, --schemes, --suites, --text, --calibration, --checkpoint-format.
"""

_SCHEMES = {
    "int4-g128": "4 bits, a float16 scale and a 4-bit zero point per 128 weights: 4.16 bits",
    "int4-g32": "the same per 32 weights: 4.62 bits",
    "int3-g128": "3 bits, the same per 128 weights: 3.15 bits",
    "int2-g64": "2 bits, the same per 64 weights: 2.28 bits; what breaks, breaks here",
    "int<bits>-g<size>": "2 to 8 bits, any group size that divides the inputs",
    "int<bits>-channel": "one scale per output channel",
    "...-sym": "symmetric: no zero points stored; a scale's sign says where the largest weight is",
}


def add(commands: Commands) -> None:
    """Add the command, with its options, examples and exit codes."""
    add_command(
        commands,
        "list",
        usage="awq-bench list",
        about="everything that can be asked for by name",
        description="List the methods, schemes, suites, texts, model families and checkpoint "
        "formats of this version, each with a line on what it is.",
        epilog=_EXAMPLES + exit_codes.listed(DONE, BAD_INPUT, INTERNAL_ERROR),
    )


def run(given: argparse.Namespace, output: Console, reporter: Reporter) -> int:
    """Print every name, by kind; returns the exit code."""
    for title, names in _sections().items():
        table = Table(
            title=title, title_justify="left", show_header=False, box=None, pad_edge=False
        )
        table.add_column(style="bold", no_wrap=True, min_width=18)
        table.add_column()
        for name, about in names.items():
            table.add_row(escape.terminal(f"  {name}"), escape.terminal(about))
        output.print(table)
        output.print()
    return DONE


def _sections() -> dict[str, Mapping[str, str]]:
    """List names, each with a line on what it is, by what they name."""
    from bench.comparison import calibration
    from bench.registry import METHODS
    from kernels import backends
    from quantcore.discovery import PROVEN_FAMILIES
    from quantcore.formats.folder import FORMATS, layout_of
    from suites import SUITES, texts

    evaluation = {name: corpus.about for name, corpus in texts.EVALUATION.items()}
    evaluation |= {"embedded": texts.EMBEDDED, "FILE": "your own .txt, or .jsonl with 'text' lines"}
    return {
        "methods": {name: entry.about for name, entry in METHODS.items()},
        "schemes": _SCHEMES,
        "suites": {**SUITES, "code": f"{SUITES['code']} (needs --allow-code-execution)"},
        "backends (what runs quantized linears)": backends.NAMES,
        "evaluation texts": evaluation,
        "calibration texts": {
            **calibration.NAMES,
            "FILE": "your own .txt, or .jsonl with 'text', 'messages' or 'input_ids' lines",
        },
        "model families (config.json's model_type)": {
            **PROVEN_FAMILIES,
            "others": "if their structure can be read and every fold verified; else an error",
        },
        "checkpoint formats": {
            **{name: layout_of(name).ABOUT for name in FORMATS},
            "hf": "an ordinary Transformers folder with the dequantized weights",
        },
    }
