"""The second table: suites down, methods across; and what is behind it. Functions of records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.items import failed_suites, none_fits, task_suites, valued
from bench.records.record import Record
from bench.registry import METHODS
from bench.report import losses
from bench.report.tables import DTYPE_LABELS, Entry, Grid, failures, ran_on
from bench.stats.items import (
    Difference,
    Estimate,
    accuracy,
    adjust,
    compare,
    language_losses,
)
from bench.stats.windows import mean
from quantcore.errors import InputError
from suites.harness import FACETS

MARK = "*"
"""Beside a difference that is more than chance."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One suite on one model."""

    record: Record
    suite: str
    metric: Mapping[str, Any]
    """As the record holds it."""
    own: Estimate | None
    """Accuracy; None where items carry no value of their own."""
    against: Difference | None = None
    """The unquantized model, corrected over the suites; None for that model itself."""

    @property
    def label(self) -> str:
        """``FP32``, ``AWQ + clip``."""
        return label_of(self.record)

    @property
    def columns(self) -> Mapping[str, list[Any]]:
        """Every item that has a value of its own."""
        return valued(self.metric["columns"])


def label_of(record: Record) -> str:
    """``FP32``, ``AWQ + clip``."""
    cell = record.cell
    if cell.method is None:
        return DTYPE_LABELS.get(cell.dtype, cell.dtype)
    return METHODS[cell.method].label


def results(records: Sequence[Record]) -> list[Result]:
    """Every task suite of every record, paired with the unquantized model among them."""
    base = next((r for r in records if r.cell.method is None), None)
    reference = {} if base is None else task_suites(base)
    found = []
    for record in records:
        suites = task_suites(record)
        against = {} if record is base else _against(record, suites, reference)
        for suite, metric in suites.items():
            columns, seed = valued(metric["columns"]), record.cell.seed
            own = None
            if columns["value"] and not none_fits(metric):
                own = accuracy(columns["value"], columns["source"], seed=seed)
            found.append(
                Result(
                    record=record, suite=suite, metric=metric, own=own, against=against.get(suite)
                )
            )
    return found


def _against(
    record: Record,
    suites: Mapping[str, Mapping[str, Any]],
    reference: Mapping[str, Mapping[str, Any]],
) -> dict[str, Difference]:
    """Every suite that both have, corrected over them."""
    compared = {}
    for suite, metric in suites.items():
        if suite not in reference or none_fits(metric) or none_fits(reference[suite]):
            continue
        columns, base = metric["columns"], reference[suite]["columns"]
        if base["id"] != columns["id"]:
            raise InputError(
                f"{suite}: the items of {label_of(record)} are not those of the model that it is "
                "compared with; measure both with the same options"
            )
        # A task may have a value for each item on one of two models, and on the other none.
        columns, base = valued(columns, beside=base), valued(base, beside=columns)
        if not columns["value"]:
            continue
        compared[suite] = compare(
            columns["value"], base["value"], columns["source"], seed=record.cell.seed
        )
    return adjust(compared)


def pair_suites(one: Record, other: Record) -> dict[str, Difference]:
    """Every task suite of one record against the same of another.

    Raises:
        InputError: they were asked other items.
    """
    return _against(one, task_suites(one), task_suites(other))


def grids(records: Sequence[Record], found: Sequence[Result]) -> list[Grid]:
    """One table a scheme: the unquantized model and every method."""
    base = next((r for r in records if r.cell.method is None), None)
    layouts = []
    for scheme in _schemes(records, found):
        across = [base] if base is not None else []
        across += [
            r for r in records if r.cell.method and r.cell.scheme == scheme and scheme is not None
        ]
        layouts.append(_grid(scheme, across, found))
    return layouts


def _schemes(records: Sequence[Record], found: Sequence[Result]) -> list[str | None]:
    """Schemes that something was measured at; [None] where there is only one model."""
    schemes: list[str | None] = []
    measured = {id(one.record) for one in found}
    for record in records:
        scheme = record.cell.scheme
        shown = id(record) in measured or _divergence(record) or failed_suites(record)
        if scheme not in (None, *schemes) and shown:
            schemes.append(scheme)
    return schemes or [None]


def _grid(scheme: str | None, across: Sequence[Record], found: Sequence[Result]) -> Grid:
    shown = _shown(across, found)
    at = {(id(one.record), one.suite): one for one in shown}
    suites = dict.fromkeys(one.suite for one in shown)
    for record in across:
        if record.cell.method or len(across) == 1:
            suites |= dict.fromkeys(failed_suites(record))
    body = []
    if any("divergence" in record.cell.suites for record in across):
        body.append(("KL, nats", [_divergence_entry(record) for record in across]))
    for suite in suites:
        entries = []
        for record in across:
            one = at.get((id(record), suite))
            if one is not None:
                entries.append(_entry(one))
            else:
                failed = suite in record.reasons
                entries.append(Entry(lines=("failed" if failed else "",), failed=failed))
        body.append((suite, entries))
    title = "accuracy by suite, %" if suites else "divergence"
    if scheme is not None:
        title = f"{scheme.replace('int', 'INT')}: {title}"
    return Grid(
        title=f"{across[0].model_name}, {title}",
        header=[Entry(lines=("",)), *(Entry(lines=(label_of(record),)) for record in across)],
        body=body,
        notes=[
            *_notes(across, shown),
            *verdicts(across, shown),
            *failures(across, {"divergence", *suites}),
        ],
    )


def _shown(across: Sequence[Record], found: Sequence[Result]) -> list[Result]:
    """The results of these records, without suites that only the unquantized model ran."""
    here = [one for one in found if any(one.record is record for record in across)]
    run = {one.suite for one in here if one.record.cell.method or len(across) == 1}
    return [one for one in here if one.suite in run]


def _divergence(record: Record) -> Mapping[str, Any] | None:
    protocol = record.cell.suites.get("divergence")
    return record.metrics.get(protocol["metric"]) if protocol else None


def _divergence_entry(record: Record) -> Entry:
    if record.cell.method is None and "divergence" not in record.reasons:
        return Entry(lines=("0",))
    metric = _divergence(record)
    if metric is None:
        return Entry(lines=("failed",), failed=True)
    own = mean(metric["window_kl"], seed=record.cell.seed)
    return Entry(
        lines=(
            f"{own.estimate:.4f}",
            f"[{own.low:.4f},{own.high:.4f}]",
            f"p50 {metric['median']:.4f}",
            f"p99 {metric['p99']:.3f}",
            f"top-1 {100 * metric['top1_agreement']:.1f}%",
        )
    )


def _entry(one: Result) -> Entry:
    if none_fits(one.metric):
        return Entry(lines=("none fits",), failed=True)
    if one.own is None:
        return Entry(lines=(f"{one.metric['value']:.4g}",))
    lines = [
        f"{100 * one.own.estimate:.1f}",
        f"[{100 * one.own.low:.1f},{100 * one.own.high:.1f}]",
    ]
    against = one.against
    if against is not None:
        mark = f" {MARK}" if against.significant() else ""
        lines += [
            f"{100 * against.difference:+.1f}{mark}",
            f"[{100 * against.low:+.1f},{100 * against.high:+.1f}]",
            f"-{against.lost} +{against.gained}",
        ]
    return Entry(lines=tuple(lines))


def _notes(across: Sequence[Record], found: Sequence[Result]) -> list[str]:
    """What a reader has to know to read the table right."""
    base = across[0]
    shown = {one.suite for one in found}
    asked = []
    for suite, metric in task_suites(base).items():
        if suite not in shown:
            continue
        protocol = base.cell.suites[suite]
        part = f" of {metric['of_items']}" if metric["items"] < metric["of_items"] else ""
        clusters = len(set(metric["columns"]["source"]))
        shared = f" from {clusters} sources" if clusters < metric["items"] else ""
        standard = ", standard sets" if protocol["source"] == "standard" else ""
        asked.append(f"{suite} {metric['items']}{part}{shared}{standard}")
    notes = [text] if (text := ran_on(across)) else []
    if asked:
        drawn = any(" of " in line for line in asked)
        seed = f", drawn by seed {base.cell.seed}" if drawn else ""
        notes.append(f"Items: {'; '.join(asked)}{seed}. Accuracy with its 95 % interval.")
    if len(across) > 1 and any(one.against for one in found):
        notes.append(
            f"Under it: the change against {label_of(base)} in points, paired by item, with its "
            f"95 % interval (BCa bootstrap over sources, 9,999 resamples), {MARK} where it is more "
            "than chance (exact McNemar or sign-flip test, Holm over suites, 5 %); then flips: "
            "right answers lost, wrong ones mended."
        )
    if any(_divergence(record) for record in across):
        notes.append(
            f"KL: divergence of the next token's distribution from {label_of(base)}'s, mean with "
            "its 95 % interval over windows, median, 99th percentile, and how often the likeliest "
            "token is the same."
        )
    for record in across:
        for suite, metric in task_suites(record).items():
            if none_fits(metric):
                notes.append(
                    f"{suite}: no prompt fits the model's context, so nothing was measured."
                )
            elif metric["too_long"]:
                notes.append(
                    f"{suite}, {label_of(record)}: {metric['too_long']} prompts do not fit the "
                    "model's context and count as wrong."
                )
            if None in metric["columns"]["value"]:
                whole = not valued(metric["columns"])["value"]
                figures = metric.get("aggregates", {}).items()
                listed = ", ".join(f"{task} {value:.4g}" for task, value in figures)
                notes.append(
                    f"{suite}: lm-eval's own aggregate; its items carry no value between 0 and 1, "
                    "so nothing can be paired."
                    if whole
                    else f"{suite}, {label_of(record)}: beside it {listed}, lm-eval's own "
                    "aggregates; the items carry no value between 0 and 1 and are not paired."
                )
    return list(dict.fromkeys(notes))


def verdicts(across: Sequence[Record], found: Sequence[Result]) -> list[str]:
    """One line a method: what it loses, and what would have been seen."""
    lines = []
    for record in across:
        compared: dict[str, Difference] = {}
        floor = []
        for one in found:
            if one.record is not record or one.against is None or one.own is None:
                continue
            before = one.own.estimate - one.against.difference
            visible = one.against.detectable_loss
            # A model that answers next to nothing right has nothing to lose.
            if not one.against.significant() and (visible is None or before < visible):
                floor.append(f"{one.suite} ({100 * before:.1f} % right before)")
            else:
                compared[one.suite] = one.against
        said = [losses.told(compared)] if compared else []
        if floor:
            said.append(f"too little to lose, or too few items, on {', '.join(floor)}")
        if said:
            lines.append(f"{label_of(record)}: {'; '.join(said)}.")
    return lines


def breakdowns(records: Sequence[Record], found: Sequence[Result]) -> list[Grid]:
    """By scheme and suite: parts, languages, lengths, grades and classes of failure."""
    layouts = []
    for scheme in _schemes(records, found):
        for suite in dict.fromkeys(one.suite for one in found):
            across = [
                one
                for one in found
                if one.suite == suite and one.record.cell.scheme in (None, scheme)
            ]
            if across and across[0].own is not None:
                layouts.append(_breakdown(scheme, suite, across))
    return layouts


def _breakdown(scheme: str | None, suite: str, across: Sequence[Result]) -> Grid:
    columns = across[0].columns
    body: list[tuple[str, list[Entry]]] = []
    for facet in FACETS:
        for name in _in_order(columns.get(facet, [])):
            if name is not None:
                entries = [_share(one, facet, name) for one in across]
                body.append((f"{facet} {name}", entries))
    named = {"id", "task", "source", "parallel", "answer", "outcome", "value", *FACETS}
    for grade in (key for key in columns if key not in named):
        entries = [Entry(lines=(_mean(one.columns[grade]),)) for one in across]
        body.append((f"grade {grade}", entries))
    counts = [Counter(one.columns["outcome"]) for one in across]
    classes = Counter[str]()
    for count in counts:
        classes.update(count)
    for name, _ in classes.most_common():
        shares = [f"{100 * count[name] / count.total():.1f}" for count in counts]
        body.append((f"outcome {name}", [Entry(lines=(share,)) for share in shares]))
    by_language = _language_lines(across)
    for number, (name, entries) in enumerate(body):
        extra = by_language.get(name.removeprefix("language "), {})
        body[number] = (
            name,
            [
                Entry(lines=(*entry.lines, *extra.get(index, ())))
                for index, entry in enumerate(entries)
            ],
        )
    title = f"{suite}, % of items"
    notes = ["Beside each part: how many items it has."]
    if by_language:
        notes.append(
            "Under a language: its change less English's, in points (negative: it loses more than "
            f"English), paired by source item, with its 95 % interval; {MARK}: more than chance "
            "(sign-flip test, Holm over languages)."
        )
    return Grid(
        title=f"{scheme.replace('int', 'INT')}: {title}" if scheme else title,
        header=[Entry(lines=("",)), *(Entry(lines=(one.label,)) for one in across)],
        body=body,
        notes=notes,
    )


def _in_order(values: Sequence[Any]) -> list[Any]:
    """Each once: numbers by size, names as they come."""
    different = list(dict.fromkeys(values))
    return sorted(different) if all(isinstance(one, int) for one in different) else different


def _share(one: Result, facet: str, name: Any) -> Entry:
    chosen = [
        value
        for value, at in zip(one.columns["value"], one.columns[facet], strict=True)
        if at == name
    ]
    return Entry(lines=(f"{100 * sum(chosen) / len(chosen):.1f} ({len(chosen)})",))


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{100 * sum(numbers) / len(numbers):.1f}" if numbers else ""


def language_comparisons(one: Result, base: Result) -> dict[str, Difference]:
    """Each language's loss beyond English's, on the items that all of them have."""
    if "language" not in one.columns:
        return {}
    ours, theirs = _by_language(one.columns), _by_language(base.columns)
    if "en" not in ours or len(ours) < 2:
        return {}
    source_of = dict(zip(one.columns["parallel"], one.columns["source"], strict=True))
    found: dict[str, Difference] = {}
    for language in (name for name in ours if name != "en"):
        held = [by.get(name, {}) for by in (ours, theirs) for name in ("en", language)]
        shared = [item for item in ours["en"] if all(item in one for one in held)]
        if shared:
            pair = ("en", language)
            found |= language_losses(
                {name: [ours[name][item] for item in shared] for name in pair},
                {name: [theirs[name][item] for item in shared] for name in pair},
                [source_of[item] for item in shared],
                seed=one.record.cell.seed,
            )
    return adjust(found)


def _by_language(columns: Mapping[str, list[Any]]) -> dict[str, dict[str, float]]:
    """Values by language and by what is the same item in all of them."""
    found: dict[str, dict[str, float]] = {}
    rows = zip(columns["language"], columns["parallel"], columns["value"], strict=True)
    for language, item, value in rows:
        if language is not None:
            found.setdefault(language, {})[item] = value
    return found


def _language_lines(across: Sequence[Result]) -> dict[str, dict[int, tuple[str, ...]]]:
    """By language and column: the lines under its accuracy."""
    base = next((one for one in across if one.record.cell.method is None), None)
    lines: dict[str, dict[int, tuple[str, ...]]] = {}
    if base is None:
        return lines
    for index, one in enumerate(across):
        if one is base:
            continue
        for language, loss in language_comparisons(one, base).items():
            mark = f" {MARK}" if loss.significant() else ""
            lines.setdefault(language, {})[index] = (
                f"{100 * loss.difference:+.1f}{mark}",
                f"[{100 * loss.low:+.1f},{100 * loss.high:+.1f}]",
            )
    return lines


def long_table(records: Sequence[Record], found: Sequence[Result]) -> pd.DataFrame:
    """One line a suite and model; then one for every facet, with fewer figures."""
    lines = [line for record in records for line in _divergence_lines(record)]
    for one in found:
        cell, own, against = one.record.cell, one.own, one.against
        shared = {
            "model": one.record.model_name,
            "method": cell.method or "unquantized",
            "scheme": cell.scheme,
            "suite": one.suite,
            "metric": cell.suites[one.suite]["metric"],
        }
        lines.append(
            {
                **shared,
                "facet": None,
                "of": None,
                "items": one.metric["items"],
                "value": one.metric["value"],
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
                "cut_off": one.metric["cut_off"],
                "too_long": one.metric["too_long"],
                "seconds": one.metric["seconds"],
            }
        )
        if own is None:
            continue
        for facet in (*FACETS, "outcome"):
            for name, count in Counter(one.columns.get(facet, [])).items():
                chosen = [
                    value
                    for value, at in zip(one.columns["value"], one.columns[facet], strict=True)
                    if at == name
                ]
                value = count / one.metric["items"] if facet == "outcome" else _average(chosen)
                lines.append({**shared, "facet": facet, "of": name, "items": count, "value": value})
    return pd.DataFrame(lines)


def _divergence_lines(record: Record) -> list[dict[str, Any]]:
    metric, cell = _divergence(record), record.cell
    if metric is None:
        return []
    shared = {
        "model": record.model_name,
        "method": cell.method or "unquantized",
        "scheme": cell.scheme,
        "suite": "divergence",
        "metric": cell.suites["divergence"]["metric"],
        "items": metric["windows"],
    }
    own = mean(metric["window_kl"], seed=cell.seed)
    return [
        {**shared, "of": "mean, nats", "value": own.estimate, "low": own.low, "high": own.high},
        *(
            {**shared, "of": name, "value": metric[key]}
            for name, key in (
                ("median, nats", "median"),
                ("p99, nats", "p99"),
                ("top-1 agreement", "top1_agreement"),
            )
        ),
    ]


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)
