"""``awq-bench list``: everything that can be asked for by name."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from bench.comparison import calibration
from bench.comparison.quantize import FORMATS
from bench.registry import METHODS
from bench.report import escape
from kernels import backends
from quantcore.discovery import PROVEN_FAMILIES
from suites import SUITES, texts

SCHEMES = {
    "int4-g128": "4 bits, a float16 scale and a 4-bit zero point per 128 weights: 4.16 bits",
    "int4-g32": "the same per 32 weights: 4.62 bits",
    "int3-g128": "3 bits, the same per 128 weights: 3.15 bits",
    "int2-g64": "2 bits, the same per 64 weights: 2.28 bits; what breaks, breaks here",
    "int<bits>-g<size>": "2 to 8 bits, any group size that divides the inputs",
    "int<bits>-channel": "one scale per output channel",
    "...-sym": "symmetric: no zero points stored",
}


def print_list(output: Console) -> None:
    """Print every section."""
    evaluation = {name: corpus.about for name, corpus in texts.EVALUATION.items()}
    evaluation |= {"embedded": texts.EMBEDDED, "FILE": "your own .txt, or .jsonl with 'text' lines"}
    sections: dict[str, Mapping[str, str]] = {
        "methods": {name: entry.about for name, entry in METHODS.items()},
        "schemes": SCHEMES,
        "suites": SUITES,
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
        "checkpoint formats": FORMATS,
    }
    for title, entries in sections.items():
        table = Table(
            title=title, title_justify="left", show_header=False, box=None, pad_edge=False
        )
        table.add_column(style="bold", no_wrap=True, min_width=18)
        table.add_column()
        for name, about in entries.items():
            table.add_row(escape.terminal(f"  {name}"), escape.terminal(about))
        output.print(table)
        output.print()
