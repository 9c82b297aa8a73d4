"""The third table has cells and backends down, loads across; it is a function of records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.metrics import TimedModel, Timings
from bench.records.record import Record
from bench.report import labels, quantities
from bench.report.grid import Field, Grid
from bench.stats.windows import Interval, geometric_mean_ratio
from suites import throughput
from suites.throughput import quantiles

_SMALL_BYTES = 2**26
_FEW_PAIRS = 5  # a bootstrap of fewer only repeats the smallest and the largest


@dataclass(frozen=True, kw_only=True)
class Speed:
    """A speed is one cell's on one backend, at one batch size and prompt length."""

    record: Record
    timings: Timings
    """All that was timed of the cell."""
    backend: str
    """What ran the linears; empty for the unquantized model."""
    batch_size: int
    prompt_tokens: int
    decode_tokens_per_s: float
    """Median over runs."""
    prefill_tokens_per_s: float
    first_token_s: Mapping[str, float]
    """p50, p95, p99 over runs."""
    token_s: Mapping[str, float]
    """p50, p95, p99 over every token after the first."""
    decode_ratio: Interval | None
    """Decoding speed over the unquantized model's, neighbours in time paired; None for itself."""
    prefill_ratio: Interval | None
    base_tokens_per_s: float | None
    """Median decoding speed of the unquantized model in the runs between."""
    model: TimedModel
    """What the record says of the model that ran."""

    @property
    def label(self) -> str:
        """Give the label without its backend, as ``FP32`` or ``AWQ + clip INT4-g128``."""
        return labels.of_timed(self.record.cell, self.backend)

    def bound(self, tokens: float) -> float:
        """Return how much faster than the unquantized model a pass over so many tokens can be."""
        timed = self.timings
        read = (timed.unquantized.read_bytes, self.model.read_bytes)
        roof = throughput.Roofline(**timed.rates.document())
        return throughput.bound(tokens, read, timed.weights, roof)

    def cost_per_million(self, price_per_hour: float) -> float:
        """Return what a million decoded tokens cost on a machine that is busy all the time."""
        return price_per_hour / 3600 / self.decode_tokens_per_s * 1e6


def speeds(records: Sequence[Record]) -> list[Speed]:
    """Return every cell that was timed, on every backend, at every load."""
    timed = []
    for record in records:
        if (timings := record.timings) is None:
            continue
        models = timings.backends or {"": timings.unquantized}
        for asked, model in models.items():
            backend = asked
            if asked == "auto":
                ran = ", ".join(sorted(model.linears))
                backend = ran if ran not in models else f"auto ({ran})"
            timed += [_speed(record, timings, backend, model, case) for case in timings.cases]
    return timed


def _speed(
    record: Record, timings: Timings, backend: str, model: TimedModel, case: tuple[int, int]
) -> Speed:
    batch, length = case
    runs = model.of(case)
    base = timings.unquantized.of(case) if backend else []

    def ratio(values: Sequence[float], reference: Sequence[float]) -> Interval | None:
        if not base:
            return None
        return geometric_mean_ratio(
            list(map(math.log, values)), list(map(math.log, reference)), seed=record.cell.seed
        )

    decode, base_decode = ([run.decode_tokens_per_s for run in some] for some in (runs, base))
    first, base_first = ([run.first_token_s for run in some] for some in (runs, base))
    return Speed(
        record=record,
        timings=timings,
        backend=backend,
        batch_size=batch,
        prompt_tokens=length,
        decode_tokens_per_s=statistics.median(decode),
        prefill_tokens_per_s=batch * length / statistics.median(first),
        first_token_s=quantiles(first),
        token_s=quantiles([step for run in runs for step in run.step_s]),
        decode_ratio=ratio(decode, base_decode),
        prefill_ratio=ratio(base_first, first),
        base_tokens_per_s=statistics.median(base_decode) if base else None,
        model=model,
    )


def _times(ratio: Interval) -> str:
    """Write ``x1.31 [1.20, 1.42]``; of few pairs no interval."""
    if ratio.windows < _FEW_PAIRS:
        return f"x{ratio.estimate:.2f}"
    return f"x{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def long_table(timed: Sequence[Speed], price_per_hour: float | None = None) -> pd.DataFrame:
    """Write one line for each cell, backend, batch size and prompt length."""
    lines = []
    for speed in timed:
        record = speed.record
        line: dict[str, Any] = {
            "model": record.model_name,
            "method": record.cell.method or "unquantized",
            "scheme": record.cell.scheme,
            "backend": speed.backend or None,
            "dtype": record.cell.dtype,
            "batch_size": speed.batch_size,
            "prompt_tokens": speed.prompt_tokens,
            "decode_tokens_per_s": speed.decode_tokens_per_s,
            "prefill_tokens_per_s": speed.prefill_tokens_per_s,
        }
        line |= {f"first_token_s_{name}": value for name, value in speed.first_token_s.items()}
        line |= {f"token_s_{name}": value for name, value in speed.token_s.items()}
        for name, ratio in (("decode", speed.decode_ratio), ("prefill", speed.prefill_ratio)):
            line[f"{name}_ratio"] = ratio.estimate if ratio else None
            line[f"{name}_ratio_low"] = ratio.low if ratio else None
            line[f"{name}_ratio_high"] = ratio.high if ratio else None
        line["decode_ratio_bound"] = speed.bound(speed.batch_size) if speed.backend else None
        line["weight_bytes"] = speed.model.weight_bytes
        line["stored_bytes"] = record.stored_bytes
        line["peak_host_bytes"] = speed.model.peak_bytes.host
        line["peak_gpu_bytes"] = speed.model.peak_bytes.gpu
        line["joules_per_token"] = speed.model.joules_per_token
        if price_per_hour is not None:
            line["modelled_cost_per_million_tokens"] = speed.cost_per_million(price_per_hour)
        lines.append(line)
    return pd.DataFrame(lines)


def grid(timed: Sequence[Speed], price_per_hour: float | None = None) -> Grid:
    """Lay out cells and backends down, batch sizes and prompt lengths across."""
    cases = list(dict.fromkeys((speed.batch_size, speed.prompt_tokens) for speed in timed))
    header = [Field(lines=("tokens/s when decoding",))]
    header += [Field(lines=(f"batch {batch}", f"prompt {length}")) for batch, length in cases]
    header.append(Field(lines=("memory", "disk")))
    rows: dict[tuple[str, str], dict[tuple[int, int], Speed]] = {}
    for speed in timed:
        row = rows.setdefault((speed.record.cell.id, speed.backend), {})
        row[speed.batch_size, speed.prompt_tokens] = speed
    body = []
    for at in rows.values():
        first = at[cases[0]]
        fields = [_field(at[case], price_per_hour) for case in cases]
        label = f"{first.label}, {first.backend}" if first.backend else first.label
        body.append((label, [*fields, _sizes(first)]))
    return Grid(
        title=f"{timed[0].record.model_name}: throughput",
        header=header,
        body=body,
        notes=_notes(timed, price_per_hour),
    )


def _field(speed: Speed, price_per_hour: float | None) -> Field:
    """Write a speed over its ratio, its latencies and its cost."""
    lines = [f"{speed.decode_tokens_per_s:,.1f}"]
    if speed.decode_ratio is not None:
        lines.append(f"{_times(speed.decode_ratio)} of {speed.base_tokens_per_s:,.1f}")
    token_ms = [f"{1e3 * speed.token_s[name]:.1f}" for name in ("p50", "p95", "p99")]
    lines.append(f"token {' / '.join(token_ms)} ms")
    prefill = "" if speed.prefill_ratio is None else f", {_times(speed.prefill_ratio)}"
    lines.append(f"first {1e3 * speed.first_token_s['p50']:.0f} ms{prefill}")
    if price_per_hour is not None:
        lines.append(f"{speed.cost_per_million(price_per_hour):,.2f} per million")
    return Field(lines=tuple(lines))


def _sizes(speed: Speed) -> Field:
    """Write what the model takes of memory and disk."""
    peaks = sorted(speed.model.peak_bytes.document().items())
    lines = [
        f"weights {quantities.size(speed.model.weight_bytes)}",
        f"peak {', '.join(f'{quantities.size(count)} {where}' for where, count in peaks)}",
    ]
    if speed.record.stored_bytes is not None:
        lines.append(f"disk {quantities.size(speed.record.stored_bytes)}")
    return Field(lines=tuple(lines))


def _notes(timed: Sequence[Speed], price_per_hour: float | None) -> list[str]:
    """Say what a reader has to know to read the table right."""
    record = timed[0].record
    where = record.environment
    device = f"{where.cpu}, {where.threads} threads"
    if record.cell.device == "cuda":
        device = str(where.gpu)
    base = labels.of_dtype(record.cell.dtype)
    rounds = len({run.round for run in timed[0].timings.unquantized.runs})
    notes = [
        f"Measured on {device}. {rounds} runs of each kind after one to warm up; medians. x: speed "
        f"over {base}'s in runs that took turns with these, whose median stands behind it (a row "
        f"of {base} is a run of its own): geometric mean over pairs"
        + (", with its 95 % interval." if rounds >= _FEW_PAIRS else ", too few for an interval."),
        "token: time of a further token, p50 / p95 / p99. first: median time to the first "
        "token. Random token ids, greedy. peak: weights and the most that a run took besides.",
        *_bound_notes([speed for speed in timed if speed.backend]),
    ]
    joules = {
        f"{speed.label} {speed.backend}".strip(): speed.model.joules_per_token
        for speed in timed
        if speed.model.joules_per_token is not None
    }
    if joules:
        figures = ", ".join(f"{label} {value:.2f}" for label, value in joules.items())
        notes.append(f"Joules a token when decoding, by the GPU's counter: {figures}.")
    if price_per_hour is not None:
        notes.append(
            f"Cost per million tokens is modelled: {price_per_hour:g} per hour over the measured "
            "decoding speed, the machine busy all the time with this batch size."
        )
    notes += dict.fromkeys(notice for speed in timed for notice in speed.model.notices)
    return notes


def _bound_notes(quantized: Sequence[Speed]) -> list[str]:
    """Say how much faster quantized models can be here; nothing where there are none."""
    if not quantized:
        return []
    timings = quantized[0].timings
    bounds = [speed.bound(1) for speed in quantized]
    least, most = min(bounds), max(bounds)
    span = f"{most:.2f}" if most - least < 0.005 else f"{least:.2f} to {most:.2f}"
    notes = [
        f"Bound at batch 1, by the bytes of weights that a pass reads: x{span}. The device "
        f"read {timings.rates.bytes_per_s / 1e9:,.1f} GB/s and multiplied "
        f"{timings.rates.operations_per_s / 1e12:,.2f} TFLOP/s."
    ]
    small = timings.unquantized.read_bytes
    if quantized[0].record.cell.device == "cpu" and small < _SMALL_BYTES:
        notes.append(
            f"The unquantized model's {quantities.size(small)} fit in caches: here calls "
            "take the time and not bytes. What 4 bits save shows on larger models."
        )
    return notes
