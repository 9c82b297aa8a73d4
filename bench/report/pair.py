"""Any two cells of finished comparisons are held against each other, suite by suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.records.record import Record, read_cell
from bench.report import labels, losses
from bench.report.grid import MARK, Field, Grid
from bench.report.notes import failures
from bench.report.scores import pair_suites
from bench.stats.exact import ALPHA
from bench.stats.items import Difference
from bench.stats.windows import Interval, geometric_mean_ratio, mean_difference
from quantcore.errors import InputError, nearest


def open_cell(name: str, folder: Path) -> Record:
    """Read the record of ``METHOD@SCHEME`` or ``unquantized`` in a comparison's folder.

    Raises:
        InputError: no comparison, no such cell, or one that failed.
    """
    files = sorted(folder.glob("records/*.json"))
    there = {path.stem.replace("_", "@"): f"records/{path.name}" for path in files}
    if not there:
        raise InputError(f"{folder} holds no records; give a folder that `awq-bench compare` wrote")
    if name not in there:
        wanted = "unquantized" if name in labels.DTYPES.values() else name  # as tables call it
        raise InputError(f"no cell {name!r} in {folder}; {nearest(wanted, there)}")
    record = read_cell(folder, there[name])
    if record.status == "failed":
        raise InputError(f"{name} failed in {folder} ({record.error}); there is nothing to compare")
    return record


def pair(record: Record, other: Record) -> Grid:
    """Lay out what the first gains or loses against the second, on the same windows and items.

    Raises:
        InputError: they measured nothing in common.
    """
    names = [labels.of_cell(cell, scheme=cell.scheme) for cell in (record.cell, other.cell)]
    if record.cell.id == other.cell.id:
        raise InputError(f"{names[0]} against itself has no difference; give two cells")
    rows = {"perplexity": _perplexity(record, other), "divergence": _divergence(record, other)}
    compared = pair_suites(record, other)
    rows |= {name: _suite(name, difference, record, other) for name, difference in compared.items()}
    body = [(name, [Field(lines=(text,)) for text in row]) for name, row in rows.items() if row]
    if not body:
        raise InputError(
            f"{names[0]} and {names[1]} measured nothing in common; compare cells that ran the "
            "same suites on the same text and items"
        )
    notes = [
        "Differences are paired: by window for perplexity and divergence (nats from the "
        "unquantized model), by item for suites (points of "
        f"accuracy, BCa bootstrap over sources, 9,999 resamples). {MARK}: more than chance at 5 % "
        "(paired t test; exact McNemar or sign-flip test with Holm over suites).",
    ]
    if compared:
        notes.append(f"{names[0]} against {names[1]}: {losses.told(compared)}.")
    notes += failures((record, other), {*record.cell.suites} & {*other.cell.suites})
    heads = ("", *names, "difference", "95 % interval", "flips", "p (Holm)")
    return Grid(
        title=f"{record.model_name}: {names[0]} against {names[1]}",
        header=[Field(lines=(head,)) for head in heads],
        body=body,
        notes=notes,
    )


def _same_protocol(record: Record, other: Record, suite: str) -> bool:
    """Say whether both were to run a suite, by one protocol."""
    return record.cell.suites.get(suite) == other.cell.suites.get(suite)


def _perplexity(record: Record, other: Record) -> list[str]:
    """Write the row of perplexity; nothing where it cannot be compared."""
    ours, theirs = record.perplexity, other.perplexity
    if ours is None or theirs is None or not _same_protocol(record, other, "perplexity"):
        return []
    ratio = geometric_mean_ratio(ours.window_nll, theirs.window_nll, seed=record.cell.seed)
    values = [f"{metric.value:.3f}" for metric in (ours, theirs)]
    return [*values, *_change(ratio, lambda value: f"{100 * (value - 1):+.2f}", unit="%")]


def _divergence(record: Record, other: Record) -> list[str]:
    """Write the row of divergence; nothing where it cannot be compared."""
    ours, theirs = record.divergence, other.divergence
    if ours is None or theirs is None or not _same_protocol(record, other, "divergence"):
        return []
    change = mean_difference(ours.window_kl, theirs.window_kl, seed=record.cell.seed)
    values = [f"{metric.value:.4f}" for metric in (ours, theirs)]
    return [*values, *_change(change, "{:+.4f}".format)]


def _change(change: Interval, shown: Callable[[float], str], *, unit: str = "") -> list[str]:
    """Write a difference over windows, its interval and its p value; windows do not flip."""
    return [
        f"{shown(change.estimate)}{unit}{_mark(change)}",
        f"[{shown(change.low)}, {shown(change.high)}]",
        "",
        f"{_p_value(change):.2g}",
    ]


def _p_value(change: Interval) -> float:
    return 1.0 if change.p_value is None else change.p_value


def _mark(change: Interval) -> str:
    return f" {MARK}" if _p_value(change) <= ALPHA else ""


def _suite(name: str, difference: Difference, *records: Record) -> list[str]:
    """Write the row of a task suite."""
    values = [record.answers[name].value for record in records]
    return [
        *(f"{100 * value:.1f}%" for value in values),
        f"{100 * difference.difference:+.1f}{f' {MARK}' if difference.significant() else ''}",
        f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]",
        f"-{difference.lost} +{difference.gained}",
        f"{difference.p_adjusted:.2g}",
    ]
