"""A change of paired outcomes is held to its tolerance, one-sided both ways.

A change is a mean over units (windows of a text, clusters of items), positive where things got
worse. Its interval is compared with the tolerance:

    whole interval at or below the tolerance    pass
    whole interval above it                     fail
    both sides                                  no verdict, and how many units would decide

The interval is Student's, of cluster sums: a change is a difference of differences on the same
units, so that most units differ by little and some by more, and its mean is over hundreds. Each end
errs with probability alpha / gates (Bonferroni over the gates of one decision): fewer than alpha of
decisions on changes at the tolerance fail, and fewer than alpha pass where one lies above it.

Where no unit differs nothing is inferred: the outcomes are the baseline's, and the change is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

ALPHA = 0.05
POWER = 0.8

Outcome = Literal["pass", "fail", "no verdict"]
_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A decision holds a change to its tolerance."""

    outcome: Outcome
    change: float
    low: float
    high: float
    """Both are one-sided bounds, each at 1 - alpha / gates."""
    tolerance: float
    units: int
    units_needed: int | None
    """So many would decide this change; None where it is decided, or no number would do."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A spread says what a mean over units varies by."""

    mean: float
    error: float
    """It is the standard error of the mean, robust to clusters."""
    units: int
    """They are clusters."""
    size: float
    """A cluster has so many samples on average."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Arithmetic says how much the same sums change on a machine that adds in another order."""

    shift: float = 0.0
    """The mean shifts by it, over however many samples."""
    deviation: float = 0.0
    """One sample's change has this standard deviation."""

    def spread(self, like: Spread, *, alpha: float = ALPHA) -> Spread:
        """Say what a mean over as many samples varies by, and stays below at 1 - alpha."""
        error = self.deviation / math.sqrt(like.units * like.size)
        return replace(like, mean=self.shift + float(stats.norm.isf(alpha)) * error, error=error)


def spread(values: Sequence[float] | _Floats, clusters: Sequence[Hashable] | None) -> Spread:
    """Take the mean of samples and its standard error.

    Args:
        values: one a sample.
        clusters: a label for each sample, samples of one label belong together; None: each alone.

    Raises:
        ValueError: there are no samples or another number of labels, or a sample is not finite.
    """
    samples = np.asarray(values, dtype=np.float64)
    if samples.ndim != 1 or not len(samples):
        raise ValueError("there are no samples")
    if not np.isfinite(samples).all():
        raise ValueError(f"sample {int(np.flatnonzero(~np.isfinite(samples))[0])} is not finite")
    labels = range(len(samples)) if clusters is None else clusters
    if len(labels) != len(samples):
        raise ValueError(f"{len(labels)} clusters for {len(samples)} samples")
    numbers: dict[Hashable, int] = {}
    cluster = np.array([numbers.setdefault(label, len(numbers)) for label in labels])
    mean = float(samples.mean())
    residuals = np.bincount(cluster, weights=samples - mean)
    count = len(residuals)
    variance = float(residuals @ residuals) / len(samples) ** 2
    correction = count / (count - 1) if count > 1 else 1.0
    return Spread(
        mean=mean,
        error=math.sqrt(variance * correction),
        units=count,
        size=len(samples) / count,
    )


def bound_of(noise: Spread, *, gates: int, alpha: float = ALPHA) -> float:
    """Say how far each bound lies from a mean of this spread; infinite for one unit."""
    if noise.units < 2:
        return math.inf
    return float(stats.t.isf(alpha / gates, noise.units - 1)) * noise.error


def decide(
    values: Sequence[float] | _Floats,
    clusters: Sequence[Hashable] | None,
    *,
    tolerance: float,
    gates: int,
    alpha: float = ALPHA,
) -> Decision:
    """Let the mean of the samples pass, fail, or have no verdict.

    Args:
        values: change of each sample, positive where it got worse.
        clusters: see `spread`.
        tolerance: the largest mean that passes.
        gates: how many are decided together.
        alpha: probability of any wrong failure, and of any wrong pass.

    Raises:
        ValueError: see `spread`.
    """
    seen = spread(values, clusters)
    if not np.any(np.asarray(values)):
        bounds = (0.0, 0.0)
    else:
        reach = bound_of(seen, gates=gates, alpha=alpha)  # one unit says nothing of its spread
        bounds = (seen.mean - reach, seen.mean + reach)
    low, high = bounds
    outcome: Outcome = "no verdict"
    if high <= tolerance:
        outcome = "pass"
    elif low > tolerance:
        outcome = "fail"
    return Decision(
        outcome=outcome,
        change=seen.mean,
        low=low,
        high=high,
        tolerance=tolerance,
        units=seen.units,
        units_needed=_needed(seen, tolerance, alpha / gates) if outcome == "no verdict" else None,
    )


def _needed(seen: Spread, tolerance: float, level: float) -> int | None:
    """Count the units at which a bound of this mean would reach the tolerance, spread as it is."""
    distance = abs(seen.mean - tolerance)
    if seen.units < 2 or distance == 0:
        return None
    deviation = seen.error * math.sqrt(seen.units)
    return math.ceil((float(stats.norm.isf(level)) * deviation / distance) ** 2) + 1


def detectable(
    noise: Spread,
    reruns: Sequence[float],
    *,
    tolerance: float,
    gates: int,
    flips: bool,
    uneven: float = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    """Find the smallest regression that fails with this power, on top of what reruns showed.

    The change that is measured is regression + m. It fails if regression + m > tolerance +
    t(1 - alpha / gates) * error, so that the smallest is

        tolerance - min(0, mean(m)) + t(1 - alpha / gates) * error
                  + sqrt((z(power) * error)^2 + (t(power) * sd(m) * sqrt(1 + 1/n))^2)

    with m the mean changes of n reruns, of which the next one is another draw.

    Samples take part in a regression unevenly, which adds to the error. Of items some flip from
    right to wrong (`flips`): error^2 = noise^2 + regression / items. A text's windows share it as
    they share what quantization costs: error^2 = noise^2 + (uneven * regression)^2.

    Args:
        noise: of a rerun's changes, as `spread` gives them.
        reruns: their mean changes, m.
        tolerance: see `decide`.
        gates: see `decide`.
        flips: whether samples are items that are right or wrong.
        uneven: standard error of a regression's mean over samples, relative to that mean.
        alpha: see `decide`.
        power: probability of failing.

    Returns:
        The size; infinite where no size would be found.
    """
    if noise.units < 2 or len(reruns) < 2:
        return math.inf
    seen = np.asarray(reruns, dtype=np.float64)
    reach = float(stats.t.isf(alpha / gates, noise.units - 1))
    own_power = float(stats.norm.isf(1 - power))
    between = float(stats.t.isf(1 - power, len(seen) - 1)) * float(seen.std(ddof=1))
    between *= math.sqrt(1 + 1 / len(seen))
    start = tolerance - min(0.0, float(seen.mean()))

    def beyond(regression: float) -> float:
        own = regression / (noise.size * noise.units) if flips else (uneven * regression) ** 2
        error = math.sqrt(noise.error**2 + own)
        return regression - start - reach * error - math.hypot(own_power * error, between)

    return _largest_root(beyond, start=max(start, 0.0) + noise.error + between + 1e-9)


def _largest_root(beyond: Callable[[float], float], *, start: float) -> float:
    """Find the size from which ``beyond`` is above 0; infinite if from none, 0 if from all."""
    top = start
    while beyond(top) < 0:
        top *= 2
        if top > 1e6:
            return math.inf
    # From above: where reruns do not differ at all, few flips are found less surely than none.
    below = top
    while beyond(below) >= 0:
        below /= 1.1
        if below < 1e-12:
            return 0.0
    return float(optimize.brentq(beyond, below, 1.1 * below, xtol=1e-12))


def floor(changes: Sequence[float], *, alpha: float = ALPHA) -> float:
    """Say what a rerun's change stays below with probability 1 - alpha, from some reruns' changes.

    It is the one-sided prediction bound of a normal sample, mean + t(1 - alpha) * sd *
    sqrt(1 + 1/n), with a mean below 0 taken as 0: that a baseline drew worse than its reruns is
    luck, and no reason to allow less. It is not below the largest that was seen.

    Raises:
        ValueError: there are fewer than two changes, or one is not finite.
    """
    seen = np.asarray(changes, dtype=np.float64)
    if len(seen) < 2 or not np.isfinite(seen).all():
        raise ValueError(f"{len(seen)} finite changes: a floor takes at least two")
    reach = float(stats.t.isf(alpha, len(seen) - 1)) * math.sqrt(1 + 1 / len(seen))
    return max(float(seen.max()), max(0.0, float(seen.mean())) + reach * float(seen.std(ddof=1)))
