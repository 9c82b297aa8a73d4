from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.stats.windows import geometric_mean, geometric_mean_ratio, mean_difference


def test_the_interval_is_scipys_bca() -> None:
    random = np.random.default_rng(3)
    nll = list(random.gamma(4, 0.7, 60))
    ours = geometric_mean(nll, seed=5)
    theirs = stats.bootstrap(
        (np.array(nll),), np.mean, n_resamples=9999, method="BCa", batch=1000,
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx(
        (math.exp(theirs.low), math.exp(theirs.high)), abs=1e-9
    )
    assert ours.estimate == pytest.approx(math.exp(np.mean(nll)), abs=1e-9)


def test_the_ratio_is_paired() -> None:
    random = np.random.default_rng(0)
    base = random.normal(4, 0.5, 100)
    other = base + 0.01 + random.normal(0, 0.005, 100)
    ratio = geometric_mean_ratio(list(other), list(base), seed=0)
    assert ratio.low > 1
    assert ratio.estimate == pytest.approx(math.exp(np.mean(other - base)), abs=1e-12)
    assert ratio.p_value == pytest.approx(stats.ttest_rel(other, base).pvalue, rel=1e-9)
    assert ratio.high - ratio.low < 0.1 * (
        geometric_mean(list(other), seed=0).high / geometric_mean(list(other), seed=0).low - 1
    )


def test_a_mean_difference_is_paired() -> None:
    random = np.random.default_rng(2)
    base = random.gamma(2, 0.02, 80)
    other = base + random.normal(0.003, 0.002, 80)
    change = mean_difference(list(other), list(base), seed=4)
    theirs = stats.bootstrap(
        (other - base,), np.mean, n_resamples=9999, method="BCa", batch=1000,
        rng=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    assert change.estimate == pytest.approx(np.mean(other - base), abs=1e-12)
    assert (change.low, change.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert change.p_value == pytest.approx(stats.ttest_rel(other, base).pvalue, rel=1e-9)
    with pytest.raises(ValueError, match="not the same text"):
        mean_difference([0.1, 0.2], [0.1], seed=0)


def test_equal_models_have_no_interval_and_no_significance() -> None:
    nll = [3.0, 4.0, 5.0]
    ratio = geometric_mean_ratio(nll, nll, seed=0)
    assert (ratio.estimate, ratio.low, ratio.high, ratio.p_value) == (1.0, 1.0, 1.0, 1.0)


def test_other_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same text"):
        geometric_mean_ratio([1.0, 2.0], [1.0], seed=0)


def test_null_comparisons_raise_no_false_alarms() -> None:
    """Of 300 comparisons without a difference about 5 % exclude it; 10 % would be far too many."""
    random = np.random.default_rng(1)
    alarms = 0
    for seed in range(300):
        base = random.normal(4, 0.5, 40)
        ratio = geometric_mean_ratio(list(base + random.normal(0, 0.01, 40)), list(base), seed=seed)
        alarms += not ratio.low <= 1 <= ratio.high
    assert alarms <= 30
