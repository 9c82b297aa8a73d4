"""Any two cells of finished comparisons against each other, suite by suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.record import Record, read_cell
from bench.report import losses
from bench.report.tables import DTYPE_LABELS, Entry, Grid, failures
from bench.report.tasks import MARK, label_of, pair_suites
from bench.stats.exact import ALPHA
from bench.stats.items import Difference
from bench.stats.windows import Interval, geometric_mean_ratio, mean_difference
from quantcore.errors import InputError, nearest


def open_cell(name: str, folder: Path) -> Record:
    """The record of ``METHOD@SCHEME`` or ``unquantized`` in a comparison's folder.

    Raises:
        InputError: no comparison, no such cell, or one that failed.
    """
    files = sorted(folder.glob("records/*.json"))
    there = {path.stem.replace("_", "@"): f"records/{path.name}" for path in files}
    if not there:
        raise InputError(f"{folder} holds no records; give a folder that `awq-bench compare` wrote")
    if name not in there:
        wanted = "unquantized" if name in DTYPE_LABELS.values() else name  # as tables call it
        raise InputError(f"no cell {name!r} in {folder}; {nearest(wanted, there)}")
    record = read_cell(folder, there[name])
    if record.status == "failed":
        raise InputError(f"{name} failed in {folder} ({record.error}); there is nothing to compare")
    return record


def pair(one: Record, other: Record) -> Grid:
    """What the first gains or loses against the second, on the same windows and items.

    Raises:
        InputError: they measured nothing in common.
    """
    names = [_name(record) for record in (one, other)]
    if one.cell.id == other.cell.id:
        raise InputError(f"{names[0]} against itself has no difference; give two cells")
    windows = {"perplexity": _perplexity(one, other), "divergence": _divergence(one, other)}
    body = [(name, [Entry(lines=(x,)) for x in lines]) for name, lines in windows.items() if lines]
    compared = pair_suites(one, other)
    for suite, found in compared.items():
        body.append((suite, [Entry(lines=(line,)) for line in _lines(suite, found, one, other)]))
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
    notes += failures((one, other), {*one.cell.suites} & {*other.cell.suites})
    heads = ("", *names, "difference", "95 % interval", "flips", "p (Holm)")
    return Grid(
        title=f"{one.model_name}: {names[0]} against {names[1]}",
        header=[Entry(lines=(head,)) for head in heads],
        body=body,
        notes=notes,
    )


def _name(record: Record) -> str:
    scheme = record.cell.scheme
    return label_of(record) if scheme is None else f"{label_of(record)} {scheme}"


def _measured(one: Record, other: Record, suite: str) -> list[Mapping[str, Any]]:
    """Both metrics of a suite that both cells ran by one protocol; nothing otherwise."""
    protocol = one.cell.suites.get(suite)
    if protocol is None or other.cell.suites.get(suite) != protocol:
        return []
    if any(suite in record.failures for record in (one, other)):
        return []
    return [record.metrics[protocol["metric"]] for record in (one, other)]


def _perplexity(one: Record, other: Record) -> list[str]:
    measured = _measured(one, other, "perplexity")
    if not measured:
        return []
    ours, theirs = measured
    ratio = geometric_mean_ratio(ours["window_nll"], theirs["window_nll"], seed=one.cell.seed)
    return [
        f"{ours['value']:.3f}",
        f"{theirs['value']:.3f}",
        f"{100 * (ratio.estimate - 1):+.2f}%{_mark(ratio)}",
        f"[{100 * (ratio.low - 1):+.2f}, {100 * (ratio.high - 1):+.2f}]",
        "",
        f"{_p_value(ratio):.2g}",
    ]


def _divergence(one: Record, other: Record) -> list[str]:
    measured = _measured(one, other, "divergence")
    if not measured:
        return []
    ours, theirs = measured
    change = mean_difference(ours["window_kl"], theirs["window_kl"], seed=one.cell.seed)
    return [
        f"{ours['value']:.4f}",
        f"{theirs['value']:.4f}",
        f"{change.estimate:+.4f}{_mark(change)}",
        f"[{change.low:+.4f}, {change.high:+.4f}]",
        "",
        f"{_p_value(change):.2g}",
    ]


def _p_value(change: Interval) -> float:
    return 1.0 if change.p_value is None else change.p_value


def _mark(change: Interval) -> str:
    return f" {MARK}" if _p_value(change) <= ALPHA else ""


def _lines(suite: str, found: Difference, one: Record, other: Record) -> list[str]:
    values = [r.metrics[r.cell.suites[suite]["metric"]]["value"] for r in (one, other)]
    return [
        *(f"{100 * value:.1f}%" for value in values),
        f"{100 * found.difference:+.1f}{f' {MARK}' if found.significant() else ''}",
        f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]",
        f"-{found.lost} +{found.gained}",
        f"{found.p_adjusted:.2g}",
    ]
