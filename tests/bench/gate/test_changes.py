"""Every gate compares what there is to compare, and says what there is not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.gate.baseline import Baseline, Tolerance
from bench.gate.changes import changes
from bench.gate.judge import judge
from bench.gate.measure import Measured
from bench.records.metrics import TimedRun
from bench.records.record import Record
from suites.throughput import METRIC
from tests.bench.gate.changed import PERPLEXITY, of_tasks, outcomes
from tests.bench.made import but, edited, run, throughput, timings


def failed(document: dict[str, Any]) -> None:
    """Perplexity could not be measured."""
    document |= {"status": "partial", "failures": {"perplexity": "OSError: planted"}}
    del document["metrics"][PERPLEXITY]


def never_asked(document: dict[str, Any]) -> None:
    del document["metrics"][PERPLEXITY]
    del document["cell"]["suites"]["perplexity"]


def shorter(document: dict[str, Any]) -> None:
    metric = document["metrics"][PERPLEXITY]
    metric["window_nll"] = metric["window_nll"][1:]
    metric["value"] = math.exp(statistics.fmean(metric["window_nll"]))
    metric["windows"] -= 1
    document["cell"]["suites"]["perplexity"]["windows"] -= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (failed, "could not be measured: OSError: planted"),
        (never_asked, "has no perplexity"),
        (shorter, "windows where the baseline has"),
    ],
)
def test_what_was_not_measured_is_compared_with_nothing(
    base: Baseline, measured: Measured, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    assert measured.unquantized is not None
    now = edited(measured.unquantized, change), edited(measured.quantized, change)
    assert said in str(changes(base.pair, now)["perplexity"])


def test_a_suite_that_failed_is_no_verdict(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    broken = edited(measured.quantized, failed)
    result = judge(base, tmp_path / "b.json", (measured.unquantized, broken), measured.declared)
    assert outcomes(result)["perplexity"] == "no verdict"
    assert result.outcome == "no verdict"
    assert any("OSError: planted" in verdict.why for verdict in result.verdicts)


def test_a_failed_cell_is_no_verdict(base: Baseline, measured: Measured, tmp_path: Path) -> None:
    none = but(measured.quantized, status="failed", error="it is NaN", metrics={})
    result = judge(base, tmp_path / "b.json", (measured.unquantized, none), measured.declared)
    assert result.outcome == "no verdict"
    assert "it is NaN" in result.verdicts[0].why


def test_every_task_suite_is_gated(tmp_path: Path) -> None:
    made, same = of_tasks("int3-g128")
    result = judge(made, tmp_path / "b.json", same, made.declared)
    assert set(outcomes(result).values()) == {"pass"}
    made, worse = of_tasks("int2-g64")
    result = judge(made, tmp_path / "b.json", worse, made.declared)
    found = outcomes(result)
    assert found.pop("size") == "pass"
    # INT2 costs these two no more than INT3 does, as far as their items tell.
    unsure = {found.pop("multilingual"), found.pop("long_prompt")}
    assert unsure == {"no verdict"}
    assert found == {"json": "fail", "tool_calls": "fail", "code": "fail"}
    for verdict in result.verdicts:
        assert verdict.decision is not None
        assert (verdict.decision.units_needed is None) == (verdict.outcome != "no verdict")
    before, after = (one.metrics["json_acc"].value for one in (made.quantized, worse[1]))
    (decision,) = [v.decision for v in result.verdicts if v.name == "json"]
    assert decision is not None
    assert decision.change == pytest.approx(before - after, abs=1e-12)


def timed(record: Record, slower: float, **environment: Any) -> Record:
    """With speeds of its own: 1.5 times the unquantized model's, divided by ``slower``."""

    def steps(speed: float) -> list[TimedRun]:
        return [
            run(batch, 16, number, [0.01 * (1 + 0.01 * ((number + batch) % 3)) / speed] * 4)
            for number in range(8)
            for batch in (1, 4)
        ]

    metric = timings(steps(1.0), {"cpu": steps(1.5 / slower)})
    suites = {**record.cell.suites, "throughput": throughput(metric)}
    return but(
        record,
        cell=but(record.cell, suites=suites),
        metrics={**record.metrics, METRIC: metric},
        environment=but(record.environment, **environment),
    )


@pytest.mark.parametrize(
    ("slower", "environment", "outcome"),
    [
        (1.0, {}, "pass"),
        (1.02, {}, "pass"),
        (1.3, {}, "fail"),
        (1.3, {"cpu": "another"}, "no verdict"),
        (1.0, {"packages": {"torch": "9"}}, "no verdict"),
    ],
)
def test_speed_is_gated_where_it_was_measured(
    base: Baseline,
    measured: Measured,
    tmp_path: Path,
    slower: float,
    environment: dict[str, Any],
    outcome: str,
) -> None:
    made = replace(
        base,
        quantized=timed(base.quantized, 1.0),
        tolerances={"throughput": Tolerance(value=0.05, reason="a test's")},
    )
    again = timed(measured.quantized, slower, **environment)
    result = judge(made, tmp_path / "b.json", (measured.unquantized, again), measured.declared)
    assert outcomes(result) == {"throughput": outcome}
    if environment:
        assert any(next(iter(environment)) in w.lower() or "torch" in w for w in result.warnings)
