"""What records say of their task suites."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from bench.records.record import read_record
from bench.report.scores import pair_suites
from quantcore.errors import InputError
from tests.bench.made import edited


def test_items_with_a_value_on_one_model_alone_are_left_out_of_the_pairs() -> None:
    """A metric's range may depend on the model: what is above 1 on one of two is no accuracy."""
    folder = Path(__file__).parents[3] / "results/reference/tasks/records"
    base, other = (
        read_record(folder / f"{name}.json") for name in ("unquantized", "rtn_int3-g128")
    )
    name = next(iter(pair_suites(other, base)))

    def without_three(metrics: dict[str, Any], first: str | None = None) -> None:
        answers = metrics[other.cell.suites[name].metric]
        columns = answers["columns"]
        columns["value"][:3] = [None] * 3
        columns["id"][0] = first or columns["id"][0]
        answers["value"] = fmean(columns["value"][3:])

    partly = edited(other, lambda document: without_three(document["metrics"]))
    before = base.answers[name].columns.values[3:]
    after = partly.answers[name].columns.values
    lost = sum(a - b for a, b in zip(after, before, strict=True)) / len(after)
    assert pair_suites(partly, base)[name].difference == pytest.approx(lost)
    assert pair_suites(base, partly)[name].difference == pytest.approx(-lost)
    partly = edited(other, lambda document: without_three(document["metrics"], "another"))
    with pytest.raises(InputError, match=f"{name}: the items of"):
        pair_suites(partly, base)
