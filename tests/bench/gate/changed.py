"""Measurements for the gate to judge: real ones, and what is changed of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.comparison.request import Request
from bench.gate.baseline import Baseline, Tolerance
from bench.gate.judge import Judgement
from bench.gate.key import declared_of
from bench.gate.measure import Measured, opened
from bench.records.record import Record, read_record
from tests.bench.made import but, edited

PERPLEXITY = "evaluation_ppl_32"
RECORDS = Path(__file__).parents[3] / "results/reference/tasks/records"
COMMAND = [
    "--method",
    "awq",
    "--scheme",
    "int4-g32",
    "--suites",
    "perplexity,divergence",
    "--seqlen",
    "32",
    "--calibration-samples",
    "8",
    "--calibration-seqlen",
    "32",
]


def command(asked: Request, *more: object) -> list[str]:
    usual = [*COMMAND, "--text", asked.text.name, "--calibration", asked.calibration.name, *more]
    return ["baseline", asked.model, *map(str, usual)]


def measure(request: Request) -> Measured:
    with opened(request) as model:
        return model.measure(*request.methods, *request.schemes)


def changed(record: Record, change: Callable[[dict[str, Any]], None]) -> Record:
    """The record with other samples; each metric's own figure follows from them."""

    def of_document(document: dict[str, Any]) -> None:
        metrics = document["metrics"]
        change(metrics)
        for metric in metrics.values():
            if "window_nll" in metric:
                metric["value"] = math.exp(statistics.fmean(metric["window_nll"]))
            elif "window_kl" in metric:
                metric["value"] = statistics.fmean(metric["window_kl"])
            elif "columns" in metric:
                metric["value"] = statistics.fmean(metric["columns"]["value"])

    return edited(record, of_document)


def shifted(by: float) -> Callable[[dict[str, Any]], None]:
    def change(metrics: dict[str, Any]) -> None:
        own = metrics[PERPLEXITY]
        own["window_nll"] = [nll + by + 1e-4 * (i % 3) for i, nll in enumerate(own["window_nll"])]

    return change


def of_tasks(now: str) -> tuple[Baseline, tuple[Record, Record]]:
    """INT3-g128 AWQ + clip with its tasks as a baseline, and another cell's outcomes as its own."""
    unquantized, before, after = (
        read_record(RECORDS / f"{name}.json")
        for name in ("unquantized", "awq+clip_int3-g128", f"awq+clip_{now}")
    )
    measured = but(after, cell=before.cell, stored_bytes=before.stored_bytes)
    names = ("json", "tool_calls", "multilingual", "code", "long_prompt", "size")
    made = Baseline(
        unquantized=unquantized,
        quantized=before,
        declared=declared_of(before.cell),
        request={"model": "reference"},
        tolerances={name: Tolerance(value=0.02, reason="a test's") for name in names},
    )
    return made, (unquantized, measured)


def outcomes(result: Judgement) -> dict[str, str]:
    return {verdict.name: verdict.outcome for verdict in result.verdicts}


def never(*_: object, **__: object) -> Record:
    raise AssertionError("measured, though there was no need")
