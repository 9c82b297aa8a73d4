"""Tables: pure functions of records."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bench.records.record import Record, in_words
from bench.registry import METHODS
from bench.report import escape, published, quantities
from bench.stats.windows import Interval, geometric_mean, geometric_mean_ratio

DTYPE_LABELS = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell with its statistics: a line of the long table."""

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
        """What others published for this very model, method, scheme and metric."""
        return published.beside(self.record)

    @property
    def label(self) -> str:
        """``FP32``, ``AWQ + clip``."""
        cell = self.record.cell
        if cell.method is None:
            own = DTYPE_LABELS.get(cell.dtype, cell.dtype)
            return f"codes, {own}" if self.record.backends else own
        return METHODS[cell.method].label

    @property
    def change(self) -> str:
        """``+2.71% [2.40, 3.02]``: the paired change against the unquantized model."""
        if self.ratio is None:
            return ""
        low, high = self.ratio.low - 1, self.ratio.high - 1
        estimate = self.ratio.estimate - 1
        digits = 2 if abs(estimate) < 0.1 else 1
        return f"{100 * estimate:+.{digits}f}% [{100 * low:.{digits}f}, {100 * high:.{digits}f}]"


def rows(records: Sequence[Record]) -> list[Row]:
    """Every cell with its intervals, paired with the unquantized model."""
    metrics = {id(record): record.cell.suites["perplexity"]["metric"] for record in records}
    base = next((r for r in records if r.cell.method is None and metrics[id(r)] in r.metrics), None)
    found = []
    for record in records:
        metric = metrics[id(record)]
        value, own, ratio = None, None, None
        if metric in record.metrics:
            sample = record.metrics[metric]["window_nll"]
            seed = record.cell.seed
            own = geometric_mean(sample, seed=seed)
            value = own.estimate
            if base is not None and record is not base:
                ratio = geometric_mean_ratio(sample, base.metrics[metric]["window_nll"], seed=seed)
        found.append(Row(record=record, metric=metric, value=value, own=own, ratio=ratio))
    return found


def long_table(table: Sequence[Row]) -> pd.DataFrame:
    """One line a cell, every figure in a column with its unit in its name."""
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
                "quantize_s": record.seconds.get("quantize"),
                "shared_calibration_s": record.seconds.get("shared_calibration"),
                "evaluate_s": record.seconds.get("evaluate"),
                "peak_host_bytes": record.peak_bytes.get("host"),
                "peak_gpu_bytes": record.peak_bytes.get("gpu"),
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
class Entry:
    """One field of the table: lines, the first of them the figure."""

    lines: tuple[str, ...]
    best: bool = False
    failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The comparison as people read it: methods down, schemes across."""

    title: str
    header: list[Entry]
    body: list[tuple[str, list[Entry]]]
    notes: list[str]


def grid(table: Sequence[Row]) -> Grid:
    """Lay out one comparison."""
    cells = [row.record.cell for row in table]
    schemes = list(dict.fromkeys(cell.scheme for cell in cells if cell.scheme))
    methods = list(dict.fromkeys(cell.method for cell in cells if cell.method))
    at = {(row.record.cell.method, row.record.cell.scheme): row for row in table}
    base = at[None, None]
    size = quantities.size(base.record.stored_bytes) if base.record.stored_bytes else ""
    header = [Entry(lines=("",))]
    best, packed = {}, {}
    for scheme in schemes:
        done = [row for row in table if row.record.cell.scheme == scheme and row.value is not None]
        best[scheme] = min((row.value for row in done if row.value is not None), default=None)
        smallest = min(done, key=lambda row: row.record.stored_bytes or 0, default=None)
        packed[scheme] = ""
        if smallest is not None and smallest.record.stored_bytes is not None:
            weight, whole = smallest.record.bits_per_weight, smallest.record.stored_bytes
            packed[scheme] = f"{weight:.2f} bits, {quantities.size(whole)}"
        header.append(Entry(lines=(scheme.replace("int", "INT"), packed[scheme])))
    if base.own is None:
        unquantized = Entry(lines=("failed",), failed=True)
    else:
        interval = f"[{base.own.low:.2f}, {base.own.high:.2f}]"
        unquantized = Entry(
            lines=(f"{base.own.estimate:.3f}", *published.lines(base.published), interval, size)
        )
    if not schemes:
        header.append(Entry(lines=(base.metric,)))
    body = [(base.label, [unquantized] * max(1, len(schemes)))]
    for method in methods:
        entries = []
        for scheme in schemes:
            row = at.get((method, scheme))
            if row is None:  # drawn before all cells are there, or without a damaged record
                entries.append(Entry(lines=("",)))
            elif row.value is None:
                entries.append(Entry(lines=("failed",), failed=True))
            else:
                cost = f"in {row.record.seconds['quantize']:.1f} s"
                bits = f"{row.record.bits_per_weight:.2f} bits"
                if bits not in packed[scheme]:
                    cost = f"{bits}, {cost}"
                lines = (f"{row.value:.3f}", *published.lines(row.published), row.change, cost)
                entries.append(Entry(lines=lines, best=row.value == best[scheme]))
        body.append((METHODS[method].label, entries))
    return Grid(
        title=f"{base.record.model_name}: {base.metric}, lower is better",
        header=header,
        body=body,
        notes=_notes(table, base),
    )


def _notes(table: Sequence[Row], base: Row) -> list[str]:
    """What a reader has to know to read the table right."""
    notes = [text] if (text := ran_on([row.record for row in table])) else []
    metric = base.record.metrics.get(base.metric)
    if metric:
        notes.append(
            f"{base.label} perplexity with its 95 % interval over {metric['windows']} windows"
            + (
                f" (evenly spaced, of {metric['of_windows']})."
                if metric["windows"] < metric["of_windows"]
                else "."
            )
        )
    quantized = [row for row in table if row.record.cell.method]
    if quantized:
        notes.append(
            f"Under each perplexity: change against {base.label}, paired by window, with its 95 % "
            "interval (BCa bootstrap, 9,999 resamples), and the seconds that quantizing took. "
            "Bold (a star where bold is lost): lowest of its column."
        )
    calibrated = [row.record for row in quantized if row.record.cell.calibration]
    if calibrated:
        one = calibrated[0].cell.calibration or {}
        shared = [
            r.seconds["shared_calibration"] for r in calibrated if "shared_calibration" in r.seconds
        ]
        notes.append(
            f"Calibration: {one['name']}, {one['samples']} x {one['seqlen']} tokens"
            + (f", one pass of {shared[0]:.1f} s shared by all cells." if shared else ".")
        )
    if any((row.record.cell.method or "").startswith("gptq") for row in quantized):
        notes.append(
            "GPTQ compensates on the original model's inputs, GPTQ + seq on those of the "
            "quantized blocks before. Columns go in activation order unless said otherwise, which "
            "stores a group index for every input; the bits beside a cell count it."
        )
    if quantized:
        notes.append("lm_head and embeddings are not quantized.")
    figures = tuple(figure for row in table for figure in row.published)
    if figures:
        notes.append(published.note(figures))
    return [*notes, *failures([row.record for row in table], ("perplexity",))]


def failures(records: Sequence[Record], suites: Collection[str]) -> list[str]:
    """Notes on those of these suites that have no outcome, a cell each."""
    notes = []
    for record in records:
        cell = record.cell
        row = DTYPE_LABELS.get(cell.dtype, cell.dtype)
        if cell.method is not None:
            row = f"{METHODS[cell.method].label} {cell.scheme}"
        if record.status == "failed":
            notes.append(f"FAILED {row}: {record.error}")
        elif mine := {one: why for one, why in record.failures.items() if one in suites}:
            notes.append(f"FAILED {row}, {in_words(mine)}")
    return notes


def fitting(layout: Grid, console: Console) -> list[Grid]:
    """The table, or several of fewer columns each where the terminal is too narrow for it.

    Each keeps the first column, and those after it in their order.
    """
    columns = len(layout.header)
    for width in range(columns - 1, 0, -1):
        parts = [
            Grid(
                title=layout.title,
                header=[layout.header[0], *layout.header[start : start + width]],
                body=[(label, row[start - 1 : start - 1 + width]) for label, row in layout.body],
                notes=layout.notes,
            )
            for start in range(1, columns, width)
        ]
        options = console.options.update(width=1000)
        widths = [Measurement.get(console, options, rich_table(one)) for one in parts]
        if width == 1 or all(one.maximum <= console.width for one in widths):
            return parts
    return [layout]


def rich_table(layout: Grid) -> Table:
    """For a terminal, 80 columns wide with three schemes; without the title."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for index, entry in enumerate(layout.header):
        head = _stacked(entry.lines[0], entry.lines[1:], style="bold")
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for number, (label, entries) in enumerate(layout.body):
        fields = [escape.terminal(label, style="bold" if number == 0 else "")]
        for entry in entries:
            style = "bold green" if entry.best else "red" if entry.failed else ""
            # A star too: colours and weights are lost in a file or a pipe.
            first = f"* {entry.lines[0]}" if entry.best else entry.lines[0]
            fields.append(_stacked(first, entry.lines[1:], style=style))
        table.add_row(*fields, end_section=True)
    return table


def _stacked(first: str, others: Sequence[str], *, style: str) -> Text:
    """A field: its figure, and under it what belongs to it."""
    field = escape.terminal(first, style=style)
    for line in others:
        field.append("\n").append(escape.terminal(line, style="dim not bold"))
    return field


def markdown(layout: Grid) -> str:
    """For a README or a pull request."""

    def join(entry: Entry) -> str:
        first, *others = map(escape.markdown, entry.lines)
        figure = f"**{first}**" if entry.best else first
        return "<br>".join(line for line in (figure, *others) if line)

    lines = [
        f"**{escape.markdown(layout.title)}**",
        "",
        f"| {' | '.join(join(entry) for entry in layout.header)} |",
        "|---" + "|--:" * (len(layout.header) - 1) + "|",
        *(
            f"| {escape.markdown(label)} | {' | '.join(map(join, entries))} |"
            for label, entries in layout.body
        ),
        "",
        *(f"- {escape.markdown(note)}" for note in layout.notes),
    ]
    return "\n".join(lines) + "\n"


def ran_on(records: Sequence[Record]) -> str:
    """What ran the quantized linears, in a sentence; empty where they were dequantized."""
    counts: dict[str, int] = {}
    for record in records:
        for name, count in record.backends.items():
            counts[name] = counts.get(name, 0) + count
    asked = next((record.cell.backend for record in records if record.backends), None)
    if asked is None:
        return ""
    ran = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"Quantized linears ran from their codes on backend {asked} (linears by backend: {ran})."


def print_table(output: Console, layout: Grid) -> None:
    """Print one table, in parts where the terminal is too narrow for it."""
    output.print()
    output.print(escape.terminal(layout.title, style="italic"))
    for part in fitting(layout, output):
        output.print(rich_table(part))
    for note in layout.notes:
        output.print(Padding(escape.terminal(note, style="dim"), (0, 0, 0, 2)))
