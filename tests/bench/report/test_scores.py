"""What records say of their task suites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.records.record import read_record
from bench.report.scores import pair_suites
from quantcore.errors import InputError


def test_items_with_a_value_on_one_model_alone_are_left_out_of_the_pairs() -> None:
    """A metric's range may depend on the model: what is above 1 on one of two is no accuracy."""
    folder = Path(__file__).parents[3] / "results/reference/tasks/records"
    base, other = (
        read_record(folder / f"{name}.json") for name in ("unquantized", "rtn_int3-g128")
    )
    name = next(iter(pair_suites(other, base)))
    metric = other.cell.suites[name]["metric"]
    columns = {key: [*values] for key, values in other.metrics[metric]["columns"].items()}
    columns["value"][:3] = [None] * 3
    partly = replace(
        other, metrics={**other.metrics, metric: {**other.metrics[metric], "columns": columns}}
    )
    before = base.metrics[metric]["columns"]["value"][3:]
    after = columns["value"][3:]
    lost = sum(a - b for a, b in zip(after, before, strict=True)) / len(after)
    assert pair_suites(partly, base)[name].difference == pytest.approx(lost)
    assert pair_suites(base, partly)[name].difference == pytest.approx(-lost)
    columns["id"][0] = "another"
    with pytest.raises(InputError, match=f"{name}: the items of"):
        pair_suites(partly, base)
