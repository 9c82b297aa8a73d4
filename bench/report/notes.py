"""Some notes stand under more than one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from bench.records.record import Record, in_words
from bench.report import labels


def failures(records: Sequence[Record], suites: Collection[str]) -> list[str]:
    """Say which of these suites have no outcome and why, a note for each cell."""
    notes = []
    for record in records:
        label = labels.of_cell(record.cell, scheme=record.cell.scheme)
        reasons = {suite: why for suite, why in record.failures.items() if suite in suites}
        if record.status == "failed":
            notes.append(f"FAILED {label}: {record.error}")
        elif reasons:
            notes.append(f"FAILED {label}, {in_words(reasons)}")
    return notes


def ran_on(records: Sequence[Record]) -> str:
    """Say what ran the quantized linears, in a sentence; empty where they were dequantized."""
    asked = next((record.cell.backend for record in records if record.backends), None)
    if asked is None:
        return ""
    counts = Counter[str]()
    for record in records:
        counts.update(record.backends)
    ran = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"Quantized linears ran from their codes on backend {asked} (linears by backend: {ran})."
