"""Time the phases of `large` on a CUDA GPU, with Llama-2-7B's shapes, and count launches.

A method that launches kernels column by column leaves the GPU waiting; operators and launches of
one block are counted to show whether it does.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from bench.comparison.progress import Reporter
from lab.speed import large
from quantcore.errors import InputError

TARGETS = {"awq+clip": 60.0, "gptq": 90.0}
"""Seconds that are asked for, calibration included."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `large`, with the target's sizes."""
    large.add_options(
        parser,
        shape="llama-2-7b",
        samples=128,
        methods="rtn,gptq,awq,awq+clip",
        batch_tokens=65536,
    )


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Measure on the GPU, in float16.

    Raises:
        InputError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise InputError(
            "gpu: PyTorch sees no CUDA GPU here; run it where there is one, or measure the same "
            "phases on the CPU with `python -m lab.speed large`"
        )
    device = torch.device("cuda")
    result = large.quantize_random(options, say, device=device, dtype=torch.float16, operators=True)
    return {**result, "targets": TARGETS}


def table(document: dict[str, Any]) -> str:
    """Show the phases, and calibration and method together against the target."""
    lines = []
    for name, target in document["targets"].items():
        if name in document["methods"]:
            run = document["methods"][name]
            total = run["seconds"] + document["calibration"]["seconds"]
            lines.append(f"{run['label']} {total:,.1f} s (target: under {target:g} s)")
    head = f"With calibration: {'; '.join(lines)}.\n\n" if lines else ""
    return head + large.table(document)
