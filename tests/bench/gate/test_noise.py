"""Tolerances follow what reruns vary by, and what other machines round by."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.gate import report
from bench.gate.baseline import Baseline, Rerun, Tolerance
from bench.gate.changes import own_changes
from bench.gate.judge import judge
from bench.gate.noise import detectable_of, noise_of, tolerance_of
from bench.gate.units import parsed_tolerance
from bench.report.grid import markdown
from bench.stats import tolerance
from quantcore.errors import InputError
from tests.bench.gate.changed import PERPLEXITY, changed, of_tasks, outcomes
from tests.bench.made import but


def test_its_tolerances_come_from_the_reruns(made: Baseline) -> None:
    own = own_changes(made)
    for name in ("perplexity", "divergence"):
        noise = noise_of(name, own[name], made.reruns)
        assert noise is not None
        means = [np.mean(one.samples[name]) for one in made.reruns[:5]]
        assert noise.means == pytest.approx(means)
        assert noise.floor == pytest.approx(tolerance.floor(means))
        errors = [np.std(one.samples[name], ddof=1) for one in made.reruns]
        windows = len(made.reruns[0].samples[name])
        assert noise.spread.error == pytest.approx(max(errors) / math.sqrt(windows))
        reach = stats.t.isf(0.05 / 2, windows - 1) * noise.spread.error
        assert made.tolerances[name].value == pytest.approx(2 * noise.floor + reach)
        size = detectable_of(made, name, own[name], noise)
        assert size is not None
        assert size > made.tolerances[name].value
    assert made.tolerances["size"].value == 0.0


def test_a_tolerance_below_what_arithmetic_gives_is_refused(made: Baseline) -> None:
    """Reruns of a folder may not differ at all, on this machine."""
    own = own_changes(made)["perplexity"]
    same = [Rerun(what="again", drawn=False, samples={"perplexity": list(own.values)})] * 2
    noise = noise_of("perplexity", own, same)
    assert noise is not None
    assert noise.floor == own.arithmetic.spread(tolerance.spread(own.values, None)).mean > 0
    none = Tolerance(value=0.0, reason="nothing may change")
    said = r"\+0\.00 % is below the noise floor of \+0\.000\d\d %.* give (.*) or more"
    with pytest.raises(InputError, match=said) as refused:
        tolerance_of("perplexity", none, same, own, gates=1)
    named = re.search(said, str(refused.value))
    assert named is not None
    value = parsed_tolerance("perplexity", named[1])
    assert noise.floor < value < 1.2 * noise.floor
    enough = Tolerance(value=value, reason="hardly anything may change")
    assert tolerance_of("perplexity", enough, same, own, gates=1) == enough


def test_a_rerun_that_says_nothing_of_a_gate_is_left_out(made: Baseline) -> None:
    own = own_changes(made)["perplexity"]
    timed = Rerun(what="timed again, 1", drawn=True, samples={"throughput": [9.0]})
    with_it = noise_of("perplexity", own, [*made.reruns, timed])
    assert with_it == noise_of("perplexity", own, made.reruns)
    assert noise_of("perplexity", own, [timed]) is None


def made_of_zeros(base: Baseline, dtype: str, *, paired: bool = True) -> Baseline:
    """A baseline of this dtype whose reruns all gave the same to the last bit."""
    quantized = but(base.quantized, cell=but(base.quantized.cell, dtype=dtype))
    base = replace(base, quantized=quantized, unquantized=base.unquantized if paired else None)
    own = own_changes(base)
    samples = {name: list(own[name].values) for name in ("perplexity", "divergence")}
    reruns = [Rerun(what=what, drawn=False, samples=samples) for what in ("one", "other")]
    return replace(
        base,
        reruns=tuple(reruns),
        tolerances={name: tolerance_of(name, None, reruns, own[name], gates=2) for name in samples},
    )


# What other instruction sets changed at most: the mean, and the deviation of windows.
MEASURED = {
    "float32": {"perplexity": (5e-7, 8e-7), "divergence": (3e-6, 4e-7)},
    "bfloat16": {"perplexity": (2e-4, 8e-3), "divergence": (5e-5, 3e-3)},
}


@pytest.mark.parametrize("dtype", MEASURED)
@pytest.mark.parametrize("sign", [1, -1])
def test_another_instruction_set_passes_where_reruns_showed_nothing(
    base: Baseline, tmp_path: Path, dtype: str, sign: int
) -> None:
    made = made_of_zeros(base, dtype)
    random = np.random.default_rng(0)

    def rounded(metrics: dict[str, Any]) -> None:
        for suite, samples in (("perplexity", "window_nll"), ("divergence", "window_kl")):
            own = metrics[made.quantized.cell.suites[suite].metric]
            mean, deviation = MEASURED[dtype][suite]
            noise = random.normal(sign * mean, deviation, len(own[samples]))
            # KL divergence is never below 0, whatever rounds it.
            own[samples] = (np.asarray(own[samples]) + noise).clip(min=0).tolist()

    for _ in range(100):
        now = changed(made.quantized, rounded)
        result = judge(made, tmp_path / "b.json", (made.unquantized, now), made.declared)
        assert outcomes(result) == {"perplexity": "pass", "divergence": "pass"}
    table = markdown(report.grid(result))
    assert "+0.00 " not in table
    assert "+0.0000 " not in table


@pytest.mark.parametrize(("dtype", "worse"), [("float32", 1e-4), ("bfloat16", 0.02)])
@pytest.mark.parametrize("paired", [True, False])
def test_a_real_change_still_fails_where_reruns_showed_nothing(
    base: Baseline, tmp_path: Path, dtype: str, worse: float, paired: bool
) -> None:
    made = made_of_zeros(base, dtype, paired=paired)

    def shift(metrics: dict[str, Any]) -> None:
        own = metrics[PERPLEXITY]
        own["window_nll"] = [nll + worse for nll in own["window_nll"]]

    now = changed(made.quantized, shift)
    result = judge(made, tmp_path / "b.json", (made.unquantized, now), made.declared)
    assert outcomes(result)["perplexity"] == "fail"


def test_an_item_that_flips_by_rounding_passes_and_lost_ones_do_not(tmp_path: Path) -> None:
    made, (unquantized, quantized) = of_tasks("int3-g128")
    cell = but(made.quantized.cell, dtype="bfloat16")
    made = replace(made, quantized=but(made.quantized, cell=cell))
    own = own_changes(made)["json"]
    reruns = [Rerun(what="again", drawn=False, samples={"json": list(own.values)})] * 2
    allowed = tolerance_of("json", None, reruns, own, gates=1)
    made = replace(made, tolerances={"json": allowed}, reruns=tuple(reruns))

    def outcome(lost: int) -> str:
        def lose(metrics: dict[str, Any]) -> None:
            held = metrics["json_acc"]["columns"]["value"]
            for index in [n for n, value in enumerate(held) if value == 1.0][:lost]:
                held[index] = 0.0

        now = changed(but(quantized, cell=cell), lose)
        result = judge(made, tmp_path / "b.json", (unquantized, now), made.declared)
        return outcomes(result)["json"]

    assert [outcome(lost) for lost in (0, 1, 30)] == ["pass", "pass", "fail"]
