"""Any two cells of finished comparisons against each other, suite by suite."""

from __future__ import annotations

from pathlib import Path

from bench.records.record import Record, read_record
from bench.report.tables import DTYPE_LABELS, Entry, Grid, failures
from bench.report.tasks import MARK, label_of, pair_suites
from bench.stats.items import Comparison, verdict
from bench.stats.windows import perplexity_ratio
from quantcore.errors import InputError, nearest


def open_cell(name: str, folder: Path) -> Record:
    """The record of ``METHOD@SCHEME`` or ``unquantized`` in a comparison's folder.

    Raises:
        InputError: no comparison, no such cell, or one that failed.
    """
    there = {path.stem.replace("_", "@"): path for path in sorted(folder.glob("records/*.json"))}
    if not there:
        raise InputError(f"{folder} holds no records; give a folder that `awq-bench compare` wrote")
    if name not in there:
        wanted = "unquantized" if name in DTYPE_LABELS.values() else name  # as tables call it
        raise InputError(f"no cell {name!r} in {folder}; {nearest(wanted, there)}")
    record = read_record(there[name])
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
    body = [("perplexity", [Entry(lines=(line,)) for line in _perplexity(one, other)])]
    body = [] if not body[0][1] else body
    compared = pair_suites(one, other)
    for suite, found in compared.items():
        body.append((suite, [Entry(lines=(line,)) for line in _lines(suite, found, one, other)]))
    if not body:
        raise InputError(
            f"{names[0]} and {names[1]} measured nothing in common; compare cells that ran the "
            "same suites on the same text and items"
        )
    notes = [
        "Differences are paired: by window for perplexity, by item for suites (points of "
        f"accuracy, BCa bootstrap over sources, 9,999 resamples). {MARK}: more than chance at 5 % "
        "(paired t test; exact McNemar or sign-flip test with Holm over suites).",
    ]
    if compared:
        notes.append(f"{names[0]} against {names[1]}: {verdict(compared)}.")
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


def _perplexity(one: Record, other: Record) -> list[str]:
    protocol = one.cell.suites.get("perplexity")
    if protocol is None or other.cell.suites.get("perplexity") != protocol:
        return []
    if any("perplexity" in record.failures for record in (one, other)):
        return []
    ours, theirs = (record.metrics[protocol["metric"]] for record in (one, other))
    ratio = perplexity_ratio(ours["window_nll"], theirs["window_nll"], seed=one.cell.seed)
    p_value = 1.0 if ratio.p_value is None else ratio.p_value
    return [
        f"{ours['value']:.3f}",
        f"{theirs['value']:.3f}",
        f"{100 * (ratio.estimate - 1):+.2f}%{f' {MARK}' if p_value <= 0.05 else ''}",
        f"[{100 * (ratio.low - 1):+.2f}, {100 * (ratio.high - 1):+.2f}]",
        "",
        f"{p_value:.2g}",
    ]


def _lines(suite: str, found: Comparison, one: Record, other: Record) -> list[str]:
    values = [r.metrics[r.cell.suites[suite]["metric"]]["value"] for r in (one, other)]
    return [
        *(f"{100 * value:.1f}%" for value in values),
        f"{100 * found.difference:+.1f}{f' {MARK}' if found.significant() else ''}",
        f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]",
        f"-{found.lost} +{found.gained}",
        f"{found.p_adjusted:.2g}",
    ]
