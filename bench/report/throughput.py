"""Throughput as people read it: pure functions of records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.record import Record
from bench.registry import METHODS
from bench.report import quantities
from bench.report.tables import DTYPE_LABELS, Entry, Grid
from bench.stats import windows as intervals
from bench.stats.windows import Interval
from suites import throughput
from suites.throughput import quantiles

_SMALL_BYTES = 2**26
_FEW_PAIRS = 5  # a bootstrap of fewer only repeats the smallest and the largest


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One cell on one backend, at one batch size and prompt length."""

    record: Record
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
    model: Mapping[str, Any]
    """What the record says of the model that ran."""

    @property
    def label(self) -> str:
        """``FP32``, ``AWQ + clip INT4-g128``."""
        cell = self.record.cell
        if cell.method is None and not self.backend:
            return DTYPE_LABELS.get(cell.dtype, cell.dtype)
        if cell.method is None:
            return "this folder's codes"
        return f"{METHODS[cell.method].label} {str(cell.scheme).replace('int', 'INT')}"

    def bound(self, tokens: float) -> float:
        """The most that a pass over so many tokens can be faster than the unquantized model's."""
        metric = self.record.metrics[throughput.METRIC]
        read = (metric["unquantized"]["read_bytes"], self.model["read_bytes"])
        return throughput.bound(
            tokens, read, metric["weights"], throughput.Roofline(**metric["rates"])
        )


def speeds(records: Sequence[Record]) -> list[Speed]:
    """Every cell that was timed, on every backend, at every batch size and prompt length."""
    found = []
    for record in records:
        if throughput.METRIC not in record.metrics:
            continue
        metric = record.metrics[throughput.METRIC]
        cases = dict.fromkeys(
            (run["batch_size"], run["prompt_tokens"]) for run in metric["unquantized"]["runs"]
        )
        models = metric["backends"] or {"": metric["unquantized"]}
        for asked, model in models.items():
            backend = asked
            if asked == "auto":
                ran = ", ".join(sorted(model["linears"]))
                backend = ran if ran not in models else f"auto ({ran})"
            found += [_speed(record, backend, model, case=case) for case in cases]
    return found


def _speed(
    record: Record, backend: str, model: Mapping[str, Any], *, case: tuple[int, int]
) -> Speed:
    def chosen(one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [r for r in one["runs"] if (r["batch_size"], r["prompt_tokens"]) == case]

    batch, length = case
    runs = chosen(model)
    base = chosen(record.metrics[throughput.METRIC]["unquantized"]) if backend else []

    def decode(run: Mapping[str, Any]) -> float:
        return float(batch * len(run["step_s"]) / sum(run["step_s"]))

    def ratio(one: Sequence[float], other: Sequence[float]) -> Interval | None:
        if not other:
            return None
        return intervals.geometric_mean_ratio(
            [math.log(a) for a in one], [math.log(b) for b in other], seed=record.cell.seed
        )

    first = [run["first_token_s"] for run in runs]
    return Speed(
        record=record,
        backend=backend,
        batch_size=batch,
        prompt_tokens=length,
        decode_tokens_per_s=statistics.median(map(decode, runs)),
        prefill_tokens_per_s=batch * length / statistics.median(first),
        first_token_s=quantiles(first),
        token_s=quantiles([step for run in runs for step in run["step_s"]]),
        decode_ratio=ratio([decode(r) for r in runs], [decode(r) for r in base]),
        prefill_ratio=ratio([r["first_token_s"] for r in base], first) if base else None,
        base_tokens_per_s=statistics.median(map(decode, base)) if base else None,
        model=model,
    )


def _times(ratio: Interval) -> str:
    """``x1.31 [1.20, 1.42]``; of few pairs no interval."""
    if ratio.windows < _FEW_PAIRS:
        return f"x{ratio.estimate:.2f}"
    return f"x{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def long_table(found: Sequence[Speed], price_per_hour: float | None = None) -> pd.DataFrame:
    """One line for each cell, backend, batch size and prompt length."""
    lines = []
    for one in found:
        line: dict[str, Any] = {
            "model": one.record.model_name,
            "method": one.record.cell.method or "unquantized",
            "scheme": one.record.cell.scheme,
            "backend": one.backend or None,
            "dtype": one.record.cell.dtype,
            "batch_size": one.batch_size,
            "prompt_tokens": one.prompt_tokens,
            "decode_tokens_per_s": one.decode_tokens_per_s,
            "prefill_tokens_per_s": one.prefill_tokens_per_s,
        }
        line |= {f"first_token_s_{name}": value for name, value in one.first_token_s.items()}
        line |= {f"token_s_{name}": value for name, value in one.token_s.items()}
        for name, ratio in (("decode", one.decode_ratio), ("prefill", one.prefill_ratio)):
            line[f"{name}_ratio"] = ratio.estimate if ratio else None
            line[f"{name}_ratio_low"] = ratio.low if ratio else None
            line[f"{name}_ratio_high"] = ratio.high if ratio else None
        line["decode_ratio_bound"] = one.bound(one.batch_size) if one.backend else None
        line["weight_bytes"] = one.model["weight_bytes"]
        line["stored_bytes"] = one.record.stored_bytes
        line["peak_host_bytes"] = one.model["peak_bytes"].get("host")
        line["peak_gpu_bytes"] = one.model["peak_bytes"].get("gpu")
        line["joules_per_token"] = one.model["joules_per_token"]
        if price_per_hour is not None:
            line["modelled_cost_per_million_tokens"] = _cost(one, price_per_hour)
        lines.append(line)
    return pd.DataFrame(lines)


def _cost(one: Speed, price_per_hour: float) -> float:
    return price_per_hour / 3600 / one.decode_tokens_per_s * 1e6


def grid(found: Sequence[Speed], price_per_hour: float | None = None) -> Grid:
    """Cells and backends down, batch sizes and prompt lengths across."""
    cases = list(dict.fromkeys((one.batch_size, one.prompt_tokens) for one in found))
    rows = list(dict.fromkeys((one.record.cell.id, one.backend) for one in found))
    at = {
        (one.record.cell.id, one.backend, one.batch_size, one.prompt_tokens): one for one in found
    }
    header = [Entry(lines=("tokens/s when decoding",))]
    header += [Entry(lines=(f"batch {batch}", f"prompt {length}")) for batch, length in cases]
    header.append(Entry(lines=("memory", "disk")))
    body = []
    for row in rows:
        entries = []
        for case in cases:
            one = at[(*row, *case)]
            lines = [f"{one.decode_tokens_per_s:,.1f}"]
            if one.decode_ratio is not None:
                lines.append(f"{_times(one.decode_ratio)} of {one.base_tokens_per_s:,.1f}")
            lines.append(
                f"token {1e3 * one.token_s['p50']:.1f} / {1e3 * one.token_s['p95']:.1f} / "
                f"{1e3 * one.token_s['p99']:.1f} ms"
            )
            lines.append(f"first {1e3 * one.first_token_s['p50']:.0f} ms")
            if one.prefill_ratio is not None:
                lines[-1] += f", {_times(one.prefill_ratio)}"
            if price_per_hour is not None:
                lines.append(f"{_cost(one, price_per_hour):,.2f} per million")
            entries.append(Entry(lines=tuple(lines)))
        some = at[(*row, *cases[0])]
        peaks = [f"{quantities.size(v)} {k}" for k, v in sorted(some.model["peak_bytes"].items())]
        sizes = [
            f"weights {quantities.size(some.model['weight_bytes'])}",
            f"peak {', '.join(peaks)}",
        ]
        if some.record.stored_bytes is not None:
            sizes.append(f"disk {quantities.size(some.record.stored_bytes)}")
        entries.append(Entry(lines=tuple(sizes)))
        body.append((f"{some.label}, {some.backend}" if some.backend else some.label, entries))
    return Grid(
        title=f"{found[0].record.model_name}: throughput",
        header=header,
        body=body,
        notes=_notes(found, price_per_hour),
    )


def _notes(found: Sequence[Speed], price_per_hour: float | None) -> list[str]:
    record = found[0].record
    where = record.environment
    device = f"{where['cpu']}, {where['threads']} threads"
    if record.cell.device == "cuda":
        device = where["gpu"]
    base = DTYPE_LABELS.get(record.cell.dtype, record.cell.dtype)
    rounds = len({run["round"] for run in record.metrics[throughput.METRIC]["unquantized"]["runs"]})
    rates = record.metrics[throughput.METRIC]["rates"]
    notes = [
        f"Measured on {device}. {rounds} runs of each kind after one to warm up; medians. x: speed "
        f"over {base}'s in runs that took turns with these, whose median stands behind it (a row "
        f"of {base} is a run of its own): geometric mean over pairs"
        + (", with its 95 % interval." if rounds >= _FEW_PAIRS else ", too few for an interval."),
        "token: time of a further token, p50 / p95 / p99. first: median time to the first "
        "token. Random token ids, greedy. peak: weights and the most that a run took besides.",
    ]
    bounds = {(o.label, o.backend): o.bound(1) for o in found if o.backend}
    if bounds:
        least, most = min(bounds.values()), max(bounds.values())
        span = f"{most:.2f}" if most - least < 0.005 else f"{least:.2f} to {most:.2f}"
        notes.append(
            f"Bound at batch 1, by the bytes of weights that a pass reads: x{span}. The device "
            f"read {rates['bytes_per_s'] / 1e9:,.1f} GB/s and multiplied "
            f"{rates['operations_per_s'] / 1e12:,.2f} TFLOP/s."
        )
    small = record.metrics[throughput.METRIC]["unquantized"]["read_bytes"]
    if bounds and record.cell.device == "cpu" and small < _SMALL_BYTES:
        notes.append(
            f"The unquantized model's {quantities.size(small)} fit in caches: here calls "
            "take the time and not bytes. What 4 bits save shows on larger models."
        )
    joules = {
        f"{one.label} {one.backend}".strip(): one.model["joules_per_token"]
        for one in found
        if one.model["joules_per_token"] is not None
    }
    if joules:
        figures = ", ".join(f"{label} {value:.2f}" for label, value in joules.items())
        notes.append(f"Joules a token when decoding, by the GPU's counter: {figures}.")
    if price_per_hour is not None:
        notes.append(
            f"Cost per million tokens is modelled: {price_per_hour:g} per hour over the measured "
            "decoding speed, the machine busy all the time with this batch size."
        )
    notes += dict.fromkeys(notice for one in found for notice in one.model["notices"])
    return notes
