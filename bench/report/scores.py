"""Records give the accuracy of their task suites, and differences between two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.metrics import Answers, Columns
from bench.records.record import Record
from bench.report import labels
from bench.stats.items import Difference, Estimate, accuracy, adjust, compare, language_losses
from quantcore.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SuiteScore:
    """A score is one suite's on one model."""

    record: Record
    suite: str
    metric: Answers
    """As the record holds it."""
    own: Estimate | None
    """Accuracy; None where items carry no value of their own."""
    against: Difference | None = None
    """The unquantized model, corrected over the suites; None for that model itself."""

    @property
    def columns(self) -> Columns:
        """Give the columns of those items that have a value of their own."""
        return self.metric.columns.valued()

    def values(self, facet: str, part: Any) -> list[float]:
        """Return the values of the items that a facet puts into one part."""
        columns = self.columns
        pairs = zip(columns.values, columns.facet(facet), strict=True)
        return [value for value, of in pairs if of == part]


def scores(records: Sequence[Record]) -> list[SuiteScore]:
    """Score every task suite of every record, paired with the unquantized model among them.

    Raises:
        InputError: they were asked other items.
    """
    base = unquantized(records)
    table = []
    for record in records:
        compared = {}
        if base is not None and record is not base:
            compared = pair_suites(record, base)
        for suite, metric in record.answers.items():
            columns, own = metric.columns.valued(), None
            if columns.values and not metric.none_fits:
                own = accuracy(columns.values, columns.source, seed=record.cell.seed)
            score = SuiteScore(
                record=record, suite=suite, metric=metric, own=own, against=compared.get(suite)
            )
            table.append(score)
    return table


def unquantized(records: Sequence[Record]) -> Record | None:
    """Return the record that the others are held against."""
    return next((record for record in records if record.cell.method is None), None)


def pair_suites(record: Record, base: Record) -> dict[str, Difference]:
    """Hold every task suite of one record against the same of another, corrected over them.

    Raises:
        InputError: they were asked other items.
    """
    reference = base.answers
    compared = {}
    for suite, metric in record.answers.items():
        if suite not in reference or metric.none_fits or reference[suite].none_fits:
            continue
        ours, theirs = metric.columns, reference[suite].columns
        if theirs.id != ours.id:
            raise InputError(
                f"{suite}: the items of {labels.of_cell(record.cell)} are not those of the model "
                "that it is compared with; measure both with the same options"
            )
        # A task may have a value for each item on one of two models, and on the other none.
        ours, theirs = ours.valued(beside=theirs), theirs.valued(beside=ours)
        if ours.values:
            compared[suite] = compare(
                ours.values, theirs.values, ours.source, seed=record.cell.seed
            )
    return adjust(compared)


def schemes(records: Sequence[Record], scored: Sequence[SuiteScore]) -> list[str | None]:
    """Return the schemes that something was measured at; [None] where there is only one model."""
    measured = {id(score.record) for score in scored}
    different: list[str | None] = []
    for record in records:
        scheme = record.cell.scheme
        shown = id(record) in measured or record.divergence or record.failed_tasks
        if scheme not in (None, *different) and shown:
            different.append(scheme)
    return different or [None]


def language_differences(score: SuiteScore, base: SuiteScore) -> dict[str, Difference]:
    """Return each language's loss beyond English's, on the items that all of them have."""
    if not score.columns.facet("language"):
        return {}
    ours, theirs = _by_language(score.columns), _by_language(base.columns)
    if "en" not in ours or len(ours) < 2:
        return {}
    source_of = dict(zip(score.columns.parallel, score.columns.source, strict=True))
    differences: dict[str, Difference] = {}
    for language in (name for name in ours if name != "en"):
        answered = [by.get(name, {}) for by in (ours, theirs) for name in ("en", language)]
        shared = [item for item in ours["en"] if all(item in values for values in answered)]
        if shared:
            pair = ("en", language)
            differences |= language_losses(
                {name: [ours[name][item] for item in shared] for name in pair},
                {name: [theirs[name][item] for item in shared] for name in pair},
                [source_of[item] for item in shared],
                seed=score.record.cell.seed,
            )
    return adjust(differences)


def _by_language(columns: Columns) -> dict[str, dict[str, float]]:
    """Sort values by language, and by what is the same item in all of them."""
    values: dict[str, dict[str, float]] = {}
    items = zip(columns.facet("language"), columns.parallel, columns.values, strict=True)
    for language, item, value in items:
        if language is not None:
            values.setdefault(language, {})[item] = value
    return values
