"""Statistics of windows of a text, or of runs that were timed, are mostly paired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 9999
CONFIDENCE = 0.95

_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval has an estimate, 95 % bootstrap bounds (BCa) and, for differences, a p value."""

    estimate: float
    low: float
    high: float
    p_value: float | None
    """Of a paired two-sided t test on the samples' differences; None for a single model."""
    windows: int
    """How many samples there are: windows of a text, or runs that were timed."""


def mean(values: Sequence[float], *, seed: int) -> Interval:
    """Return the mean over windows."""
    low, high = _bootstrap_mean(np.asarray(values), seed=seed)
    average = float(np.mean(values))
    return Interval(estimate=average, low=low, high=high, p_value=None, windows=len(values))


def mean_difference(values: Sequence[float], reference: Sequence[float], *, seed: int) -> Interval:
    """Return the mean over windows of ``values - reference``, paired.

    Raises:
        ValueError: other numbers of windows.
    """
    differences = _paired(values, reference)
    low, high = _bootstrap_mean(differences, seed=seed)
    return Interval(
        estimate=float(differences.mean()),
        low=low,
        high=high,
        p_value=_t_test(differences),
        windows=len(differences),
    )


def geometric_mean(logarithms: Sequence[float], *, seed: int) -> Interval:
    """Return ``exp(mean(logarithms))``, the geometric mean of samples given by their logarithms.

    Of windows' mean negative log likelihoods this is the perplexity.
    """
    return _exp_mean(np.asarray(logarithms), seed=seed, test=False)


def geometric_mean_ratio(
    logarithms: Sequence[float], reference: Sequence[float], *, seed: int
) -> Interval:
    """Return ``exp(mean(logarithms - reference))``, the ratio of two geometric means, paired.

    Of windows' mean negative log likelihoods this is the perplexity over the reference's. Pairing
    removes what makes windows hard for both models, which is most of their spread: the interval is
    many times narrower than the two perplexities' own.

    Args:
        logarithms: natural logarithms, one a sample.
        reference: those of the same samples (windows, neighbours in time) of the reference.
        seed: of the bootstrap.

    Raises:
        ValueError: other numbers of samples.
    """
    return _exp_mean(_paired(logarithms, reference), seed=seed, test=True)


def _paired(values: Sequence[float], reference: Sequence[float]) -> _Floats:
    """Return the differences by window."""
    if len(values) != len(reference):
        raise ValueError(f"{len(values)} windows against {len(reference)}: not the same text")
    differences: _Floats = np.asarray(values) - np.asarray(reference)
    return differences


def _t_test(differences: _Floats) -> float:
    """Return the two-sided p value of a mean of 0; 1 where nothing varies."""
    varied = len(differences) > 1 and np.ptp(differences) > 0
    return float(stats.ttest_1samp(differences, 0.0).pvalue) if varied else 1.0


def _exp_mean(values: _Floats, *, seed: int, test: bool) -> Interval:
    """Return exp of the mean, with the p value of a mean of 0 where that is asked for."""
    low, high = _bootstrap_mean(values, seed=seed)
    p_value = _t_test(values) if test else None
    return Interval(
        estimate=float(np.exp(values.mean())),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        p_value=p_value,
        windows=len(values),
    )


def _bootstrap_mean(values: _Floats, *, seed: int) -> tuple[float, float]:
    """Return the mean's BCa interval; it has no width where nothing varies."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(values.mean()), float(values.mean())
    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    )
    low, high = map(float, result.confidence_interval)
    return low, high
