"""What was declared differs, and is named; what is beneath the declaration does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.comparison.request import Request
from bench.gate import report
from bench.gate.baseline import Baseline
from bench.gate.judge import judge
from bench.gate.measure import Measured
from tests.bench.gate.changed import changed, measure, of_tasks, shifted
from tests.bench.made import but


@pytest.mark.parametrize(
    ("name", "value"),
    [("source", "0" * 64), ("method", "rtn"), ("scheme", "int3-g32"), ("calibration", None)],
)
def test_another_declaration_is_no_verdict_and_named(
    base: Baseline, measured: Measured, tmp_path: Path, name: str, value: object
) -> None:
    worse = changed(measured.quantized, shifted(9.0))
    declared = {**measured.declared, name: value}
    result = judge(base, tmp_path / "b.json", (measured.unquantized, worse), declared)
    assert result.outcome == "no verdict"
    (part,) = result.differing
    assert name in part
    assert part in "".join(report.grid(result).notes)


def test_other_sequences_of_the_same_calibration_are_the_same_declaration(
    base: Baseline, asked: Request, tmp_path: Path
) -> None:
    again = measure(asked.but(calibration_seed=1))
    own, other = (one.cell.calibration for one in (base.quantized, again.quantized))
    assert own is not None
    assert other is not None
    assert own.sha256 != other.sha256
    assert judge(base, tmp_path / "b.json", again.pair, again.declared).differing == {}


def test_suites_that_were_measured_besides_do_not_matter(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    tasks = of_tasks("int3-g128")[0].quantized
    own, metrics = measured.quantized.cell.suites, measured.quantized.metrics
    more = but(
        measured.quantized,
        cell=but(measured.quantized.cell, suites={**own, "json": tasks.cell.suites["json"]}),
        metrics={**metrics, "json_acc": tasks.metrics["json_acc"]},
    )
    result = judge(base, tmp_path / "b.json", (measured.unquantized, more), measured.declared)
    assert result.outcome == "pass"
    less = but(
        measured.quantized,
        cell=but(measured.quantized.cell, suites={"divergence": own["divergence"]}),
        metrics={own["divergence"].metric: metrics[own["divergence"].metric]},
    )
    result = judge(base, tmp_path / "b.json", (measured.unquantized, less), measured.declared)
    assert list(result.differing) == ["suite perplexity"]
    assert result.outcome == "no verdict"


def test_items_of_another_suite_version_are_no_verdict(tmp_path: Path) -> None:
    made, (unquantized, measured) = of_tasks("int2-g64")
    suites = measured.cell.suites
    suites = {**suites, "json": but(suites["json"], items_sha256="0" * 64)}
    other = but(measured, cell=but(measured.cell, suites=suites))
    result = judge(made, tmp_path / "b.json", (unquantized, other), made.declared)
    assert result.outcome == "no verdict"
    assert list(result.differing) == ["suite json"]
    assert "suite json" in result.verdicts[0].why
