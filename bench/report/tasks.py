"""The second table has suites down and methods across; it is a function of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench.records.metrics import Answers
from bench.records.protocols import TasksProtocol
from bench.records.record import Record
from bench.report import labels, losses
from bench.report.grid import MARK, Field, Grid
from bench.report.notes import failures, ran_on
from bench.report.scores import SuiteScore, schemes, unquantized
from bench.stats.items import Difference
from bench.stats.windows import mean
from suites.harness import FACETS


def grids(records: Sequence[Record], scored: Sequence[SuiteScore]) -> list[Grid]:
    """Lay out one table a scheme: the unquantized model and every method."""
    base = unquantized(records)
    layouts = []
    for scheme in schemes(records, scored):
        across = [base] if base is not None else []
        across += [
            record
            for record in records
            if record.cell.method and record.cell.scheme == scheme and scheme is not None
        ]
        layouts.append(_grid(scheme, across, scored))
    return layouts


def _grid(scheme: str | None, across: Sequence[Record], scored: Sequence[SuiteScore]) -> Grid:
    shown = _shown(across, scored)
    at = {(id(score.record), score.suite): score for score in shown}
    suites = dict.fromkeys(score.suite for score in shown)
    for record in across:
        if record.cell.method or len(across) == 1:
            suites |= dict.fromkeys(record.failed_tasks)
    body = []
    if any("divergence" in record.cell.suites for record in across):
        body.append(("KL, nats", [_divergence_field(record) for record in across]))
    for suite in suites:
        fields = [_field(record, suite, at.get((id(record), suite))) for record in across]
        body.append((suite, fields))
    title = "accuracy by suite, %" if suites else "divergence"
    if scheme is not None:
        title = f"{labels.of_scheme(scheme)}: {title}"
    heads = ("", *(labels.of_cell(record.cell) for record in across))
    return Grid(
        title=f"{across[0].model_name}, {title}",
        header=[Field(lines=(head,)) for head in heads],
        body=body,
        notes=[
            *_notes(across, shown),
            *_conclusions(across, shown),
            *failures(across, {"divergence", *suites}),
        ],
    )


def _shown(across: Sequence[Record], scored: Sequence[SuiteScore]) -> list[SuiteScore]:
    """Return the scores of these records, without suites that only the unquantized model ran."""
    here = [score for score in scored if any(score.record is record for record in across)]
    run = {score.suite for score in here if score.record.cell.method or len(across) == 1}
    return [score for score in here if score.suite in run]


def _divergence_field(record: Record) -> Field:
    if record.cell.method is None and "divergence" not in record.reasons:
        return Field(lines=("0",))
    metric = record.divergence
    if metric is None:
        return Field(lines=("failed",), failed=True)
    own = mean(metric.window_kl, seed=record.cell.seed)
    return Field(
        lines=(
            f"{own.estimate:.4f}",
            f"[{own.low:.4f},{own.high:.4f}]",
            f"p50 {metric.median:.4f}",
            f"p99 {metric.p99:.3f}",
            f"top-1 {100 * metric.top1_agreement:.1f}%",
        )
    )


def _field(record: Record, suite: str, score: SuiteScore | None) -> Field:
    """Write a suite's accuracy over its change and flips."""
    if score is None:
        failed = suite in record.reasons
        return Field(lines=("failed" if failed else "",), failed=failed)
    if score.metric.none_fits:
        return Field(lines=("none fits",), failed=True)
    if score.own is None:
        return Field(lines=(f"{score.metric.value:.4g}",))
    lines = [
        f"{100 * score.own.estimate:.1f}",
        f"[{100 * score.own.low:.1f},{100 * score.own.high:.1f}]",
    ]
    if score.against is not None:
        lines += change(score.against)
        lines.append(f"-{score.against.lost} +{score.against.gained}")
    return Field(lines=tuple(lines))


def change(difference: Difference) -> tuple[str, str]:
    """Write a difference in points, marked where it is more than chance, over its interval."""
    mark = f" {MARK}" if difference.significant() else ""
    return (
        f"{100 * difference.difference:+.1f}{mark}",
        f"[{100 * difference.low:+.1f},{100 * difference.high:+.1f}]",
    )


def _notes(across: Sequence[Record], shown: Sequence[SuiteScore]) -> list[str]:
    """Say what a reader has to know to read the table right."""
    base = across[0]
    label = labels.of_cell(base.cell)
    notes = [note] if (note := ran_on(across)) else []
    notes += _items_note(base, {score.suite for score in shown})
    if len(across) > 1 and any(score.against for score in shown):
        notes.append(
            f"Under it: the change against {label} in points, paired by item, with its "
            f"95 % interval (BCa bootstrap over sources, 9,999 resamples), {MARK} where it is more "
            "than chance (exact McNemar or sign-flip test, Holm over suites, 5 %); then flips: "
            "right answers lost, wrong ones mended."
        )
    if any(record.divergence for record in across):
        notes.append(
            f"KL: divergence of the next token's distribution from {label}'s, mean with "
            "its 95 % interval over windows, median, 99th percentile, and how often the likeliest "
            "token is the same."
        )
    for record in across:
        for suite, metric in record.answers.items():
            notes += _limits(suite, labels.of_cell(record.cell), metric)
    return list(dict.fromkeys(notes))


def _items_note(base: Record, shown: set[str]) -> list[str]:
    """Say what each of these suites asked; nothing where there is none."""
    asked, drawn = [], False
    for suite, metric in base.answers.items():
        if suite not in shown:
            continue
        subset = metric.items < metric.of_items
        drawn |= subset
        part = f" of {metric.of_items}" if subset else ""
        clusters = len(set(metric.columns.source))
        shared = f" from {clusters} sources" if clusters < metric.items else ""
        protocol = base.cell.suites[suite]
        assert isinstance(protocol, TasksProtocol)
        standard = ", standard sets" if protocol.source == "standard" else ""
        asked.append(f"{suite} {metric.items}{part}{shared}{standard}")
    if not asked:
        return []
    seed = f", drawn by seed {base.cell.seed}" if drawn else ""
    return [f"Items: {'; '.join(asked)}{seed}. Accuracy with its 95 % interval."]


def _limits(suite: str, label: str, metric: Answers) -> list[str]:
    """Say which items of a suite could not be asked, or have no value of their own."""
    notes = []
    if metric.none_fits:
        notes.append(f"{suite}: no prompt fits the model's context, so nothing was measured.")
    elif metric.too_long:
        notes.append(
            f"{suite}, {label}: {metric.too_long} prompts do not fit the "
            "model's context and count as wrong."
        )
    if None not in metric.columns.value:
        return notes
    if not metric.columns.values:
        notes.append(
            f"{suite}: lm-eval's own aggregate; its items carry no value between 0 and 1, "
            "so nothing can be paired."
        )
    else:
        figures = metric.aggregates.items()
        listed = ", ".join(f"{task} {value:.4g}" for task, value in figures)
        notes.append(
            f"{suite}, {label}: beside it {listed}, lm-eval's own "
            "aggregates; the items carry no value between 0 and 1 and are not paired."
        )
    return notes


def _conclusions(across: Sequence[Record], shown: Sequence[SuiteScore]) -> list[str]:
    """Say in one line a method what it loses, and what would have been seen."""
    lines = []
    for record in across:
        compared: dict[str, Difference] = {}
        floor = []
        for score in shown:
            if score.record is not record or score.against is None or score.own is None:
                continue
            before = score.own.estimate - score.against.difference
            visible = score.against.detectable_loss
            # A model that answers next to nothing right has nothing to lose.
            if not score.against.significant() and (visible is None or before < visible):
                floor.append(f"{score.suite} ({100 * before:.1f} % right before)")
            else:
                compared[score.suite] = score.against
        told = [losses.told(compared)] if compared else []
        if floor:
            told.append(f"too little to lose, or too few items, on {', '.join(floor)}")
        if told:
            lines.append(f"{labels.of_cell(record.cell)}: {'; '.join(told)}.")
    return lines


def long_table(records: Sequence[Record], scored: Sequence[SuiteScore]) -> pd.DataFrame:
    """Write one line a suite and model; then one for every facet, with fewer figures."""
    lines = [line for record in records for line in _divergence_lines(record)]
    for score in scored:
        shared = _identity(score.record, score.suite)
        lines.append({**shared, **_figures(score)})
        if score.own is not None:
            lines += [{**shared, **part} for part in _parts(score)]
    return pd.DataFrame(lines)


def _identity(record: Record, suite: str) -> dict[str, Any]:
    """Return the columns that say what was measured."""
    return {
        "model": record.model_name,
        "method": record.cell.method or "unquantized",
        "scheme": record.cell.scheme,
        "suite": suite,
        "metric": record.cell.suites[suite].metric,
    }


def _figures(score: SuiteScore) -> dict[str, Any]:
    """Return the columns of a suite as a whole."""
    own, against = score.own, score.against
    return {
        "facet": None,
        "of": None,
        "items": score.metric.items,
        "value": score.metric.value,
        "low": own.low if own else None,
        "high": own.high if own else None,
        "difference": against.difference if against else None,
        "difference_low": against.low if against else None,
        "difference_high": against.high if against else None,
        "lost": against.lost if against else None,
        "gained": against.gained if against else None,
        "p_value": against.p_value if against else None,
        "p_adjusted": against.p_adjusted if against else None,
        "detectable_loss": against.detectable_loss if against else None,
        "cut_off": score.metric.cut_off,
        "too_long": score.metric.too_long,
        "seconds": score.metric.seconds,
    }


def _parts(score: SuiteScore) -> list[dict[str, Any]]:
    """Return the columns of each part of a suite, and of each class of failure."""
    columns, parts = score.columns, []
    for facet in (*FACETS, "outcome"):
        for part, count in Counter(columns.facet(facet)).items():
            value = count / score.metric.items
            if facet != "outcome":
                values = score.values(facet, part)
                value = sum(values) / len(values)
            parts.append({"facet": facet, "of": part, "items": count, "value": value})
    return parts


def _divergence_lines(record: Record) -> list[dict[str, Any]]:
    metric = record.divergence
    if metric is None:
        return []
    shared = {**_identity(record, "divergence"), "items": metric.windows}
    own = mean(metric.window_kl, seed=record.cell.seed)
    return [
        {**shared, "of": "mean, nats", "value": own.estimate, "low": own.low, "high": own.high},
        {**shared, "of": "median, nats", "value": metric.median},
        {**shared, "of": "p99, nats", "value": metric.p99},
        {**shared, "of": "top-1 agreement", "value": metric.top1_agreement},
    ]
