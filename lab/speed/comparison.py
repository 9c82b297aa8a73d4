"""Measure what a comparison of 12 cells spends besides its calibration and its cells.

``compare`` runs as the command line runs it. Functions are wrapped to be counted and timed, and
nothing in them is changed. Two totals are reported: from the call to the return of ``compare``, and
from the loaded model (after ``open_model``) to the return; the target is about the second, for
reading a model from the disk is no part of comparing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.comparison import calibrator, estimate, set_up
from bench.comparison.compare import compare
from bench.comparison.progress import Reporter
from bench.comparison.request import Request
from bench.comparison.run_folder import RunFolder
from bench.comparison.set_up import open_model
from bench.comparison.suites import windows
from bench.records import environment
from bench.report import draw as drawing  # `draw` would be taken for this benchmark's own chart
from lab.speed.options import add_calibration, add_windows
from lab.speed.timing import interleave, machine, markdown, spread, stopwatch, summary
from quantcore.calibration import BlockWalk, calibrate
from quantcore.checkpoint import LoadedModel
from quantcore.errors import InputError
from quantcore.quantize import Snapshot, quantize_model

TARGET = 1.15
_BESIDE = {
    "read the structure": (set_up, "discover"),
    "read the text": (windows, "choose_text"),
    "tokenize": (windows, "evaluation_windows"),
    "choose and check calibration text": (set_up, "build_calibration"),
    "measure rates for the estimate": (estimate, "measure_pace"),
    "put weights back": (Snapshot, "restore"),
    "copy weights": (Snapshot, "__init__"),
    "describe the machine": (environment, "describe"),
    "write records": (RunFolder, "keep"),
    "draw tables and charts": (drawing, "write"),
}
"""Where seconds outside the cells' own may go: what it is, and the function that does it."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the comparison's sizes; the defaults are the target's."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", default="rtn,gptq,awq,awq+clip")
    parser.add_argument("--schemes", default="int4-g128,int4-g32,int3-g128")
    add_calibration(parser, samples=128)
    add_windows(parser)


def watched(function: Callable[..., Any], sums: dict[str, float], name: str) -> Callable[..., Any]:
    """Return the function, timed."""

    def call(*arguments: Any, **options: Any) -> Any:
        with stopwatch(sums, name):
            return function(*arguments, **options)

    return call


def counted(function: Callable[..., Any], counts: dict[str, int], name: str) -> Callable[..., Any]:
    """Return the function, its calls counted."""

    def call(*arguments: Any, **options: Any) -> Any:
        counts[name] = counts.get(name, 0) + 1
        return function(*arguments, **options)

    return call


def compare_once(request: Request) -> dict[str, Any]:
    """Run one comparison in a folder of its own, and say where its seconds went."""
    beside: dict[str, float] = {}
    counts: dict[str, int] = {"passes": 0, "blocks_observed": 0}
    loaded_at: list[float] = []
    quantizing: dict[str, float] = {}

    def open_and_note(asked: Request) -> LoadedModel:
        loaded = open_model(asked)
        loaded_at.append(time.perf_counter())
        return loaded

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(patch.object(set_up, "open_model", open_and_note))
        for name, (owner, attribute) in _BESIDE.items():
            function = watched(getattr(owner, attribute), beside, name)
            stack.enter_context(patch.object(owner, attribute, function))
        calibrate_once = counted(calibrate, counts, "passes")
        stack.enter_context(patch.object(calibrator, "calibrate", calibrate_once))
        quantize_timed = watched(quantize_model, quantizing, "all")
        stack.enter_context(patch.object(calibrator, "quantize_model", quantize_timed))
        observe = counted(BlockWalk.observe, counts, "blocks_observed")
        stack.enter_context(patch.object(BlockWalk, "observe", observe))
        started = time.perf_counter()
        outcome = compare(request, out=Path(folder) / "run")
        finished = time.perf_counter()
    if outcome.failed:
        raise RuntimeError(f"a cell failed: {outcome.failed[0].error}")
    cells = [record for record in outcome.records if record.cell.method is not None]
    shared = {record.seconds.shared_calibration or 0.0 for record in cells}
    quantize_s = sum(record.seconds.quantize or 0.0 for record in cells)
    # A cell's quantizing is timed without reading its losses off H for the record.
    beside["report losses"] = quantizing["all"] - quantize_s
    own = {
        "calibrate": max(shared),
        "quantize": quantize_s,
        "evaluate": sum(record.seconds.evaluate or 0.0 for record in outcome.records),
    }
    after_load = finished - loaded_at[0]
    return {
        "cells": len(cells),
        **counts,
        "total_s": finished - started,
        "after_load_s": after_load,
        "own_s": own,
        "beside_s": beside,
        "ratio_total": (finished - started) / sum(own.values()),
        "ratio_after_load": after_load / sum(own.values()),
    }


def measure(options: argparse.Namespace, say: Reporter) -> dict[str, Any]:
    """Run the comparison a few times over."""
    if options.rounds < 1:
        raise InputError(f"--rounds {options.rounds}: must be at least 1")
    request = Request.of(
        methods=tuple(options.methods.split(",")),
        schemes=tuple(options.schemes.split(",")),
        text="embedded",
        calibration_samples=options.samples,
        calibration_seqlen=options.seqlen,
        windows=options.windows,
        device="cpu",
    )
    runs = interleave(
        {"compare": lambda _: compare_once(request)},
        options.rounds,
        lambda name, number, run: say.say(
            f"  round {number + 1}: {run['total_s']:.1f} s, {run['passes']} calibration pass, "
            f"{run['ratio_after_load']:.3f} times its parts"
        ),
    )["compare"]
    return {
        "target": TARGET,
        "samples": options.samples,
        "seqlen": options.seqlen,
        "methods": list(request.methods),
        "schemes": list(request.schemes),
        "ratio_total": summary([run["ratio_total"] for run in runs]),
        "ratio_after_load": summary([run["ratio_after_load"] for run in runs]),
        "runs": runs,
    }


def table(document: dict[str, Any]) -> str:
    """Show the total against its parts, and where the difference goes."""
    runs = document["runs"]

    def over(read: Callable[[dict[str, Any]], float]) -> str:
        return spread(summary([read(run) for run in runs]))

    rows = [
        ["calibrate, once", over(lambda run: run["own_s"]["calibrate"])],
        ["quantize, all cells", over(lambda run: run["own_s"]["quantize"])],
        ["evaluate, all cells and FP32", over(lambda run: run["own_s"]["evaluate"])],
        ["**sum**", over(lambda run: sum(run["own_s"].values()))],
        ["from the loaded model to the end", over(lambda run: run["after_load_s"])],
        ["from the call to the end", over(lambda run: run["total_s"])],
    ]
    names = sorted(runs[0]["beside_s"], key=lambda name: -runs[0]["beside_s"][name])
    beside = [[name, over(lambda run, name=name: run["beside_s"][name])] for name in names]  # type: ignore[misc]
    passes = ", ".join(sorted({str(run["passes"]) for run in runs}))
    return (
        f"**A comparison of {runs[0]['cells']} cells on the reference model, "
        f"{document['samples']} x {document['seqlen']} calibration tokens**\n\n"
        f"Calibration passes: {passes} (over {runs[0]['blocks_observed']} blocks). "
        f"Total over the sum of its parts: {spread(document['ratio_after_load'], digits=3)} from "
        f"the loaded model (target: at most {document['target']:.2f}), "
        f"{spread(document['ratio_total'], digits=3)} from the call.\n\n"
        + markdown(["", "seconds"], rows)
        + "\n"
        + markdown(["besides", "seconds"], beside)
        + "\nMedian [range]. "
        + machine(document)
    )
