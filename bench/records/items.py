"""What a record holds of its task suites, item by item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.records.record import Record


def task_suites(record: Record) -> dict[str, Mapping[str, Any]]:
    """Task suites of a record that was measured, with their metrics."""
    return {
        name: record.metrics[protocol["metric"]]
        for name, protocol in record.cell.suites.items()
        if "tasks" in protocol and protocol["metric"] in record.metrics
    }


def failed_suites(record: Record) -> list[str]:
    """Task suites of a record that could not be measured."""
    suites = record.cell.suites.items()
    return [name for name, suite in suites if "tasks" in suite and name in record.reasons]


def valued(
    columns: Mapping[str, list[Any]], *, beside: Mapping[str, list[Any]] | None = None
) -> Mapping[str, list[Any]]:
    """The items that have a value of their own, ``beside`` too: those that can be paired."""
    pairs = zip(columns["value"], (beside or columns)["value"], strict=True)
    kept = [index for index, pair in enumerate(pairs) if None not in pair]
    if len(kept) == len(columns["value"]):
        return columns
    return {name: [entries[index] for index in kept] for name, entries in columns.items()}


def none_fits(metric: Mapping[str, Any]) -> bool:
    """Whether no prompt fitted the context: then nothing was measured."""
    return bool(metric["too_long"] == metric["items"])
