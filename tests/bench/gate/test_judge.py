"""What is worse fails, what is the same passes, and what moved besides is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.gate.baseline import Baseline
from bench.gate.judge import judge
from bench.gate.measure import Measured
from tests.bench.gate.changed import changed, outcomes, shifted


def test_the_same_again_passes(base: Baseline, measured: Measured, tmp_path: Path) -> None:
    result = judge(base, tmp_path / "b.json", measured.pair, measured.declared)
    assert set(outcomes(result).values()) == {"pass"}
    assert result.outcome == "pass"


def test_a_worse_quantized_model_fails_and_both_worse_do_not(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    worse = changed(measured.quantized, shifted(0.05))
    result = judge(base, tmp_path / "b.json", (measured.unquantized, worse), measured.declared)
    assert outcomes(result)["perplexity"] == "fail"
    assert result.outcome == "fail"
    assert measured.unquantized is not None
    other = changed(measured.unquantized, shifted(0.05))
    result = judge(base, tmp_path / "b.json", (other, worse), measured.declared)
    assert result.outcome == "pass"
    # Without the unquantized model the quantized one's own outcomes are gated.
    result = judge(base, tmp_path / "b.json", (None, worse), measured.declared)
    assert outcomes(result)["perplexity"] == "fail"


def test_an_unquantized_model_that_moved_is_told(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    def worse(metrics: dict[str, Any]) -> None:
        shifted(0.4)(metrics)

    assert measured.unquantized is not None
    moved = tuple(changed(one, worse) for one in (measured.unquantized, measured.quantized))
    result = judge(base, tmp_path / "b.json", (moved[0], moved[1]), measured.declared)
    assert result.outcome == "pass"
    assert any("perplexity of the unquantized model" in one for one in result.warnings)


def test_a_baseline_without_gates_decides_nothing(
    base: Baseline, measured: Measured, tmp_path: Path
) -> None:
    empty = replace(base, tolerances={})
    result = judge(empty, tmp_path / "b.json", measured.pair, measured.declared)
    assert result.outcome == "no verdict"
