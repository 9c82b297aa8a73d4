"""Any two cells against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.report.pair import open_cell, pair

FOLDER = Path(__file__).parents[3] / "results/reference/tasks"


def test_divergence_is_compared_by_window() -> None:
    """As `awq-bench pair --help` says: a line for each suite that both cells ran."""
    awq, rtn = (open_cell(f"{method}@int4-g128", FOLDER) for method in ("awq", "rtn"))
    body = dict(pair(awq, rtn).body)
    assert set(body) == {*awq.cell.suites}
    metric = awq.cell.suites["divergence"].metric
    ours, theirs = (np.array(one.metrics[metric].window_kl) for one in (awq, rtn))
    said = [field.lines[0] for field in body["divergence"]]
    assert said[:2] == [f"{ours.mean():.4f}", f"{theirs.mean():.4f}"]
    assert said[2].split()[0] == f"{(ours - theirs).mean():+.4f}"
    low, high = (float(end) for end in said[3].strip("[]").split(", "))
    assert low <= (ours - theirs).mean() <= high
    assert said[2].endswith("*") is (float(said[5]) <= 0.05)


def test_the_unquantized_model_is_itself_a_cell() -> None:
    awq, base = (open_cell(name, FOLDER) for name in ("awq@int4-g128", "unquantized"))
    said = [field.lines[0] for field in dict(pair(awq, base).body)["divergence"]]
    assert said[1] == "0.0000"
    assert said[0] == said[2].split()[0].removeprefix("+")


@pytest.mark.parametrize("name", ["awq@int4-g12", "FP32"])
def test_a_name_that_is_none_is_answered_with_the_nearest(name: str) -> None:
    wanted = {"awq@int4-g12": "awq@int4-g128", "FP32": "unquantized"}[name]
    with pytest.raises(ValueError, match=f"no cell '{name}' in .*did you mean '{wanted}'"):
        open_cell(name, FOLDER)
