"""Parts, grades and classes of failure of each suite stand behind the second table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.records.record import Record
from bench.report import labels
from bench.report.grid import MARK, Field, Grid
from bench.report.scores import SuiteScore, language_differences, schemes
from bench.report.tasks import change
from suites.harness import FACETS

_Lines = list[tuple[str, list[Field]]]


def grids(records: Sequence[Record], scored: Sequence[SuiteScore]) -> list[Grid]:
    """Lay out, by scheme and suite, parts, languages, lengths, grades and classes of failure."""
    layouts = []
    for scheme in schemes(records, scored):
        for suite in dict.fromkeys(score.suite for score in scored):
            across = [
                score
                for score in scored
                if score.suite == suite and score.record.cell.scheme in (None, scheme)
            ]
            if across and across[0].own is not None:
                layouts.append(_grid(scheme, suite, across))
    return layouts


def _grid(scheme: str | None, suite: str, across: Sequence[SuiteScore]) -> Grid:
    beyond = _beyond_english(across)
    notes = ["Beside each part: how many items it has."]
    if any(beyond):
        notes.append(
            "Under a language: its change less English's, in points (negative: it loses more than "
            f"English), paired by source item, with its 95 % interval; {MARK}: more than chance "
            "(sign-flip test, Holm over languages)."
        )
    title = f"{suite}, % of items"
    heads = ("", *(labels.of_cell(score.record.cell) for score in across))
    return Grid(
        title=f"{labels.of_scheme(scheme)}: {title}" if scheme else title,
        header=[Field(lines=(head,)) for head in heads],
        body=[*_parts(across, beyond), *_grades(across), *_outcomes(across)],
        notes=notes,
    )


def _beyond_english(across: Sequence[SuiteScore]) -> list[dict[str, tuple[str, ...]]]:
    """Write for each column, by language, what it loses beyond English."""
    base = next((score for score in across if score.record.cell.method is None), None)
    return [
        {}
        if base is None or score is base
        else {
            language: change(difference)
            for language, difference in language_differences(score, base).items()
        }
        for score in across
    ]


def _parts(across: Sequence[SuiteScore], beyond: Sequence[dict[str, tuple[str, ...]]]) -> _Lines:
    """Write the share of right answers in each part that a facet makes."""
    columns = across[0].columns
    lines: _Lines = []
    for facet in FACETS:
        for part in _in_order(columns.facet(facet)):
            if part is None:
                continue
            fields = []
            for score, changes in zip(across, beyond, strict=True):
                values = score.values(facet, part)
                share = f"{_mean(values)} ({len(values)})" if values else ""
                under = changes.get(part, ()) if facet == "language" else ()
                fields.append(Field(lines=(share, *under)))
            lines.append((f"{facet} {part}", fields))
    return lines


def _in_order(parts: Sequence[Any]) -> list[Any]:
    """Return each part once: numbers by size, names as they come."""
    different = list(dict.fromkeys(parts))
    return sorted(different) if all(isinstance(part, int) for part in different) else different


def _grades(across: Sequence[SuiteScore]) -> _Lines:
    """Write the mean of each grade that the suite gives beside right and wrong."""
    named = {"id", "task", "source", "parallel", "answer", "outcome", "value", *FACETS}
    return [
        (f"grade {grade}", [Field(lines=(_mean(score.columns.facet(grade)),)) for score in across])
        for grade in across[0].columns.every
        if grade not in named
    ]


def _mean(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{100 * sum(numbers) / len(numbers):.1f}" if numbers else ""


def _outcomes(across: Sequence[SuiteScore]) -> _Lines:
    """Write how many answers came out in each way, the most frequent first."""
    counts = [Counter(score.columns.outcome) for score in across]
    classes = Counter[str]()
    for count in counts:
        classes.update(count)
    return [
        (
            f"outcome {name}",
            [
                # A model whose items have no value of their own has no such line.
                Field(lines=(f"{100 * count[name] / count.total():.1f}" if count else "",))
                for count in counts
            ],
        )
        for name, _ in classes.most_common()
    ]
