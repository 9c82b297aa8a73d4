"""The first table is perplexity, methods down and schemes across; it is a function of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.records.record import Record
from bench.report import labels, published, quantities
from bench.report.grid import Field, Grid
from bench.report.notes import failures, ran_on
from bench.stats.windows import Interval, geometric_mean, geometric_mean_ratio


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row is one cell with its statistics: a line of the long table."""

    record: Record
    metric: str
    value: float | None
    """Perplexity; None where the cell failed."""
    own: Interval | None
    """Of the perplexity itself."""
    ratio: Interval | None
    """Perplexity over the unquantized model's, paired by window; None for that model itself."""

    @property
    def published(self) -> tuple[published.Published, ...]:
        """Give the figures that others published for this very model, method, scheme and metric."""
        return published.beside(self.record)

    @property
    def change(self) -> str:
        """Give the paired change against the unquantized model, as ``+2.71% [2.40, 3.02]``."""
        if self.ratio is None:
            return ""
        low, high = self.ratio.low - 1, self.ratio.high - 1
        estimate = self.ratio.estimate - 1
        digits = 2 if abs(estimate) < 0.1 else 1
        return f"{100 * estimate:+.{digits}f}% [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def rows(records: Sequence[Record]) -> list[Row]:
    """Pair every cell with the unquantized model, and give both their intervals."""
    base = next((r for r in records if r.cell.method is None and r.perplexity), None)
    reference = None if base is None else base.perplexity
    table = []
    for record in records:
        value, own, ratio = None, None, None
        if (measured := record.perplexity) is not None:
            seed = record.cell.seed
            own = geometric_mean(measured.window_nll, seed=seed)
            value = own.estimate
            if reference is not None and record is not base:
                ratio = geometric_mean_ratio(measured.window_nll, reference.window_nll, seed=seed)
        metric = record.cell.suites["perplexity"].metric
        table.append(Row(record=record, metric=metric, value=value, own=own, ratio=ratio))
    return table


def long_table(table: Sequence[Row]) -> pd.DataFrame:
    """Write one line a cell, every figure in a column with its unit in its name."""
    lines = []
    for row in table:
        record, cell = row.record, row.record.cell
        own, ratio = row.own, row.ratio
        lines.append(
            {
                "model": record.model_name,
                "method": cell.method or "unquantized",
                "scheme": cell.scheme,
                "dtype": cell.dtype,
                "status": record.status,
                "metric": row.metric,
                "perplexity": row.value,
                "perplexity_low": own.low if own else None,
                "perplexity_high": own.high if own else None,
                "ratio_to_unquantized": ratio.estimate if ratio else None,
                "ratio_low": ratio.low if ratio else None,
                "ratio_high": ratio.high if ratio else None,
                "paired_t_p_value": ratio.p_value if ratio else None,
                "windows": own.windows if own else None,
                "bits_per_weight": record.bits_per_weight,
                "stored_bytes": record.stored_bytes,
                "quantize_s": record.seconds.quantize,
                "shared_calibration_s": record.seconds.shared_calibration,
                "evaluate_s": record.seconds.evaluate,
                "peak_host_bytes": record.peak_bytes.host,
                "peak_gpu_bytes": record.peak_bytes.gpu,
                "error": record.reasons.get("perplexity"),
            }
        )
    if any(row.published for row in table):  # most models have none, and no empty columns
        for line, row in zip(lines, table, strict=True):
            values = {figure.source.label: figure.perplexity for figure in row.published}
            line["published_by_paper"] = values.get(published.PAPER.label)
            line["claimed_by_article"] = values.get(published.ARTICLE.label)
    return pd.DataFrame(lines)


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column is all cells of one scheme."""

    scheme: str
    best: float | None
    """Lowest perplexity; None where every cell failed."""
    bits: str | None
    """Bits per weight, as its head says them; None where that says nothing of sizes."""
    size: str


def grid(table: Sequence[Row]) -> Grid:
    """Lay out one comparison."""
    cells = [row.record.cell for row in table]
    methods = dict.fromkeys(cell.method for cell in cells if cell.method)
    at = {(row.record.cell.method, row.record.cell.scheme): row for row in table}
    base = at[None, None]
    columns = [
        _column(scheme, table)
        for scheme in dict.fromkeys(cell.scheme for cell in cells if cell.scheme)
    ]
    header = [Field(lines=("",)), *map(_head, columns)]
    if not columns:
        header.append(Field(lines=(base.metric,)))
    body = [(labels.of_row(base.record), [_unquantized(base)] * max(1, len(columns)))]
    for method in methods:
        fields = [_field(at.get((method, column.scheme)), column) for column in columns]
        body.append((labels.of_method(method), fields))
    return Grid(
        title=f"{base.record.model_name}: {base.metric}, lower is better",
        header=header,
        body=body,
        notes=_notes(table, base),
    )


def _column(scheme: str, table: Sequence[Row]) -> _Column:
    done = [row for row in table if row.record.cell.scheme == scheme and row.value is not None]
    smallest = min(done, key=lambda row: row.record.stored_bytes or 0, default=None)
    bits, size = None, ""
    if smallest is not None and smallest.record.stored_bytes is not None:
        bits, size = _bits(smallest.record), quantities.size(smallest.record.stored_bytes)
    return _Column(
        scheme=scheme,
        best=min((row.value for row in done if row.value is not None), default=None),
        bits=bits,
        size=size,
    )


def _bits(record: Record) -> str:
    return f"{record.bits_per_weight:.2f} bits"


def _head(column: _Column) -> Field:
    """Write the scheme over what its smallest cell takes."""
    stored = "" if column.bits is None else f"{column.bits}, {column.size}"
    return Field(lines=(labels.of_scheme(column.scheme), stored))


def _unquantized(base: Row) -> Field:
    """Write the unquantized model's perplexity over its interval and size."""
    if base.own is None:
        return Field(lines=("failed",), failed=True)
    stored = base.record.stored_bytes
    return Field(
        lines=(
            f"{base.own.estimate:.3f}",
            *published.lines(base.published),
            f"[{base.own.low:.2f}, {base.own.high:.2f}]",
            quantities.size(stored) if stored else "",
        )
    )


def _field(row: Row | None, column: _Column) -> Field:
    """Write a cell's perplexity over its change and cost."""
    if row is None:  # drawn before all cells are there, or without a damaged record
        return Field(lines=("",))
    if row.value is None:
        return Field(lines=("failed",), failed=True)
    cost = f"in {row.record.seconds.quantize:.1f} s"
    bits = _bits(row.record)
    if bits != column.bits:
        cost = f"{bits}, {cost}"
    lines = (f"{row.value:.3f}", *published.lines(row.published), row.change, cost)
    return Field(lines=lines, best=row.value == column.best)


def _notes(table: Sequence[Row], base: Row) -> list[str]:
    """Say what a reader has to know to read the table right."""
    records = [row.record for row in table]
    quantized = [record for record in records if record.cell.method]
    label = labels.of_row(base.record)
    notes = [note] if (note := ran_on(records)) else []
    if (metric := base.record.perplexity) is not None:
        some = metric.windows < metric.of_windows
        spaced = f" (evenly spaced, of {metric.of_windows})" if some else ""
        notes.append(
            f"{label} perplexity with its 95 % interval over {metric.windows} windows{spaced}."
        )
    if quantized:
        notes.append(
            f"Under each perplexity: change against {label}, paired by window, with its 95 % "
            "interval (BCa bootstrap, 9,999 resamples), and the seconds that quantizing took. "
            "Bold (a star where bold is lost): lowest of its column."
        )
        notes += _calibration_note(quantized)
    notes += _gptq_note(quantized)
    if quantized:
        notes.append("lm_head and embeddings are not quantized.")
    figures = tuple(figure for row in table for figure in row.published)
    if figures:
        notes.append(published.note(figures))
    return [*notes, *failures(records, ("perplexity",))]


_ORDERS = {
    "static": "the most active first, on grids fitted before any rounding",
    "group": "group after group, the most active first",
    "off": "from left to right",
    "on": "the most active first in groups formed so, with a group index for every input, counted "
    "in the bits beside a cell",
}


def _gptq_note(quantized: Sequence[Record]) -> list[str]:
    """Say what GPTQ compensates on, and how columns went as records have it; nothing without it."""
    cells = [record.cell for record in quantized if (record.cell.method or "").startswith("gptq")]
    if not cells:
        return []
    named: dict[str, dict[str, None]] = {}
    for cell in cells:
        if (order := cell.method_settings.get("order")) in _ORDERS:
            named.setdefault(order, {})[labels.of_cell(cell)] = None
    ways = "; ".join(f"{_ORDERS[order]} ({' and '.join(own)})" for order, own in named.items())
    return [
        "GPTQ compensates on the original model's inputs, GPTQ + seq on those of the quantized "
        f"blocks before.{f' Columns are rounded {ways}.' if ways else ''}"
    ]


def _calibration_note(quantized: Sequence[Record]) -> list[str]:
    """Say on what was calibrated, and what of it the cells share; nothing if none was."""
    texts = [record.cell.calibration for record in quantized if record.cell.calibration]
    if not texts:
        return []
    seconds = (record.seconds.shared_calibration for record in quantized)
    shared = next((took for took in seconds if took is not None), None)
    cost = "." if shared is None else f", one pass of {shared:.1f} s shared by all cells."
    return [f"Calibration: {texts[0].name}, {texts[0].samples} x {texts[0].seqlen} tokens{cost}"]
