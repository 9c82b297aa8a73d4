"""What is behind the table of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.records.record import read_record
from bench.report import breakdowns
from bench.report.grid import markdown
from bench.report.scores import scores
from tests.bench.made import edited

RECORDS = Path(__file__).parents[3] / "results/reference/tasks/records"


def test_a_model_without_values_of_its_own_leaves_its_column_empty() -> None:
    """A metric's range may depend on the model: on one of two it is no accuracy of items."""
    base, other = (
        read_record(RECORDS / f"{name}.json") for name in ("unquantized", "rtn_int3-g128")
    )
    metric = other.cell.suites["json"].metric

    def no_values(document: dict[str, Any]) -> None:
        answers = document["metrics"][metric]
        answers["columns"]["value"] = [None] * answers["items"]
        answers["aggregates"] = {"json": 1.5}

    without = edited(other, no_values)
    drawn = breakdowns.grids([base, without], scores([base, without]))
    (table,) = (layout for layout in drawn if "json" in layout.title)
    assert {field.lines for _, fields in table.body for field in fields[1:]} == {("",)}
    assert all(fields[0].lines[0] for _, fields in table.body)
    assert "json" in markdown(table)
