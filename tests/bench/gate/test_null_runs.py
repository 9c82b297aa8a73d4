"""Null runs see gates that cry wolf, and gates that sleep."""

from __future__ import annotations

from dataclasses import replace

from bench.gate.baseline import Baseline, Tolerance
from bench.gate.null_runs import null_runs


def test_null_runs_see_a_gate_that_cries_wolf_and_one_that_sleeps(made: Baseline) -> None:
    honest = null_runs(made)
    assert honest is not None
    assert honest.outcomes["fail"] <= 0.05 * honest.runs
    worse = [
        replace(one, samples={"divergence": [v + 1.0 for v in one.samples["divergence"]]})
        for one in made.reruns
    ]
    low = {"divergence": Tolerance(value=0.1, reason="a test's")}
    wolf = replace(made, tolerances=low, reruns=tuple(worse))
    found = null_runs(wolf, runs=50)
    assert found is not None
    assert found.outcomes["fail"] == 50
    # A rerun far worse than the others is one that their tolerance does not cover.
    far = [
        replace(
            one, samples={name: [v + 5.0 for v in values] for name, values in one.samples.items()}
        )
        if one.what == "calibration seed 3"
        else one
        for one in made.reruns
    ]
    found = null_runs(replace(made, reruns=tuple(far)), runs=50)
    assert found is not None
    assert found.outcomes["fail"] == 10
