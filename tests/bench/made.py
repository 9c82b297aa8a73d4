"""Cells and records that tests make up; they are as valid as measured ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bench.records.cell import Cell
from bench.records.document import Document
from bench.records.environment import Environment
from bench.records.metrics import (
    DeviceRates,
    Metric,
    PeakBytes,
    Perplexity,
    TimedModel,
    TimedRun,
    Timings,
)
from bench.records.protocols import ThroughputProtocol, WindowsProtocol
from bench.records.record import PhaseSeconds, Quantization, Record, record_of
from suites.throughput import METRIC as THROUGHPUT

Made = TypeVar("Made", bound=Document)

METRIC = "made_ppl_8"
HERE = Environment(
    python="3.12.0",
    platform="Linux x86_64",
    packages={"torch": "2.13.0"},
    cpu="a processor",
    threads=2,
    gpu=None,
    commit=None,
    dirty=None,
)


def windows(count: int = 4, **more: Any) -> WindowsProtocol:
    """A protocol of perplexity."""
    usual = {"version": 1, "metric": METRIC, "text_sha256": "2" * 64, "seqlen": 8}
    return WindowsProtocol(**{**usual, "windows": count, **more})


def perplexity(window_nll: Sequence[float] = (1.0, 1.1, 1.2, 1.3), **more: Any) -> Perplexity:
    """What such a protocol measures."""
    count = len(window_nll)
    usual = {"windows": count, "of_windows": count, "text_tokens": 8 * count}
    value = math.exp(statistics.fmean(window_nll))
    return Perplexity(**{**usual, "value": value, "window_nll": [*window_nll], **more})


def cell(method: str | None = None, scheme: str | None = None, **more: Any) -> Cell:
    """A cell of any model."""
    usual = {
        "model": "0" * 64,
        "tokenizer": "1" * 64,
        "method": method,
        "method_settings": {},
        "scheme": scheme,
        "exclude": (),
        "calibration": None,
        "suites": {"perplexity": windows()},
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
    }
    return Cell(**{**usual, **more})


def record(
    of: Cell | None = None,
    metrics: dict[str, Metric] | None = None,
    **more: Any,
) -> Record:
    """What a cell measured, which is done."""
    of = of or cell()
    quantized = of.method is not None
    took = dict.fromkeys(("quantize", "fold", "round", "own_calibration"), 1.0)
    usual = {
        "cell": of,
        "status": "done",
        "error": None,
        "model_name": "m",
        "parameters": 1,
        "metrics": {METRIC: perplexity()} if metrics is None else metrics,
        "quantization": None,
        "stored_bytes": 1000,
        "bits_per_weight": 4.16 if quantized else None,
        "seconds": PhaseSeconds(evaluate=1.0, **(took if quantized else {})),
        "peak_bytes": PeakBytes(host=1),
        "environment": HERE,
    }
    if quantized:
        usual["quantization"] = Quantization(
            scale_dtype="float16",
            calibration_passes=0,
            relative_losses={},
            notices=[],
            exempt=[],
        )
    return Record(**{**usual, **more})


def but(original: Made, **changes: Any) -> Made:
    """The same with other values, validated anew."""
    values = {name: getattr(original, name) for name in type(original).model_fields}
    return type(original).model_validate({**values, **changes})


def edited(original: Record, change: Callable[[dict[str, Any]], object]) -> Record:
    """Another record, whose document is this one's with a change; both are valid."""
    document = original.document()
    change(document)
    document["cell_id"] = Cell.model_validate(document["cell"]).id
    return record_of(document, where="a test's", fix="mend the test")


def run(batch: int, prompt: int, number: int, step_s: list[float], first: float = 0.1) -> TimedRun:
    """One prompt and the tokens after it."""
    return TimedRun(
        batch_size=batch, prompt_tokens=prompt, round=number, first_token_s=first, step_s=step_s
    )


def timed_model(runs: list[TimedRun], *, read_bytes: int, **linears: int) -> TimedModel:
    """One model's runs."""
    return TimedModel(
        linears=linears,
        weight_bytes=2**20,
        read_bytes=read_bytes,
        runs=runs,
        joules_per_token=None,
        peak_bytes=PeakBytes(host=2**21),
        notices=[],
    )


def timings(base: list[TimedRun], backends: dict[str, list[TimedRun]]) -> Timings:
    """What throughput measures; quantized weights are a quarter of the unquantized ones."""
    first = next(iter(backends.values()), base)
    case = [one.decode_tokens_per_s for one in first if one.case == first[0].case]
    return Timings(
        value=statistics.median(case),
        backends={
            name: timed_model(runs, read_bytes=250, cpu=7) for name, runs in backends.items()
        },
        unquantized=timed_model(base, read_bytes=1000),
        weights=500,
        rates=DeviceRates(bytes_per_s=1000.0, operations_per_s=1e6),
    )


def throughput(metric: Timings) -> ThroughputProtocol:
    """The protocol by which such timings were measured."""
    runs = metric.unquantized.runs
    return ThroughputProtocol(
        version=1,
        metric=THROUGHPUT,
        backends=[*metric.backends] or ["auto"],
        batch_sizes=list(dict.fromkeys(batch for batch, _ in metric.cases)),
        prompt_lengths=list(dict.fromkeys(prompt for _, prompt in metric.cases)),
        new_tokens=len(runs[0].step_s) + 1,
        rounds=len({one.round for one in runs}),
        seed=0,
    )
