"""Paired statistics on task accuracy: two models, the same items, items that belong together.

An outcome is one item's value in [0, 1], mostly 0 (wrong) or 1 (right). Items that share a source
(translations of one question, questions on one passage) form a cluster: they are right or wrong
together, so that ten of them say less than ten items of their own. Clusters are what is drawn,
flipped and counted here; an item without relatives is a cluster of one.

    difference = mean over items of (candidate - reference)

Three things are said of a difference, each by the method that fits it best:

- how large it is: a BCa bootstrap over clusters (Efron 1987, "Better bootstrap confidence
  intervals"). A quantized model flips few items, and the distribution of a few flips is skewed:
  after 1 flip in 300 the percentile interval ends at 3 flips, BCa's at 6, the exact one at 5.6;
- whether it is there: the exact sign-flip test. Were the two models alike, exchanging them within a
  cluster would change nothing, so that every choice of signs for the clusters' differences is
  equally likely. With clusters of one this is the exact McNemar test;
- what would have been found, had it been there: the exact power of that test.

What counts as found is the test's to say. A bootstrap of five losses and no gain knows no gain, and
excludes 0 where the test does not; then the interval is extended to 0. Simulated (100 to 1,000
items, discordance 1 to 30 %) it holds the truth in 93 to 100 % of comparisons; with about ten flips
or flipping clusters and fewer, in 88 % at worst.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from bench.stats.windows import CONFIDENCE, RESAMPLES

ALPHA = 0.05
POWER = 0.8
FEW_ITEMS = 20
"""Below this nothing is said of what was not found, but that there are too few items."""
BLUNT_POINTS = 20
"""Likewise where only losses above this many percentage points would have been found."""

_Key = TypeVar("_Key", bound=Hashable)
_Floats = NDArray[np.float64]
_TAIL = (1 - CONFIDENCE) / 2
_BLOCK = 2**21
"""Draws held in memory at a time, 16 MiB."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One model's accuracy with its 95 % interval."""

    estimate: float
    low: float
    high: float
    items: int
    clusters: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Candidate against reference on the same items. Differences are fractions, not points."""

    difference: float
    """Accuracy of the candidate minus the reference's: negative is a loss."""
    low: float
    high: float
    """The difference's 95 % interval."""
    lost: int
    """Items where the candidate is worse: right turned wrong."""
    gained: int
    """Items where the candidate is better: wrong turned right."""
    p_value: float
    """Two-sided, of this comparison alone."""
    p_adjusted: float | None = None
    """After Holm's correction for the comparisons it was made with; set by ``adjust``."""
    detectable_loss: float | None
    """Smallest loss that would have been found; None if no loss would. ``adjust`` recomputes it."""
    items: int
    clusters: int
    discordance: float
    """Mean of the squared differences: the share of items that flip, where outcomes are 0 or 1."""
    design_effect: float
    """How many clustered items say as much as one of its own; 1 without clusters."""

    def significant(self, alpha: float = ALPHA) -> bool:
        """Whether the difference is more than chance, after correction for all comparisons.

        Raises:
            ValueError: the comparison was never corrected, so its p value could mislead.
        """
        if self.p_adjusted is None:
            raise ValueError("p_adjusted is None: pass all comparisons through adjust() first")
        return self.p_adjusted <= alpha


def accuracy(correct: Sequence[float], clusters: Sequence[Hashable], *, seed: int) -> Estimate:
    """Mean outcome with its 95 % interval.

    Right and wrong answers without clusters are a binomial sample, for which Wilson's interval
    (Wilson 1927) covers better than a bootstrap, above all near 0 and 1, and needs no seed. Graded
    outcomes and clusters take the BCa bootstrap over clusters. Where that has nothing to vary (all
    right, all wrong) it would have no width; see ``_unseen`` for what is given instead.

    Args:
        correct: one outcome per item, in [0, 1].
        clusters: one label per item.
        seed: of the bootstrap.

    Raises:
        ValueError: no items, another number of labels, or an outcome outside [0, 1].
    """
    outcomes = _outcomes(correct)
    sizes, sums = _by_cluster(outcomes, clusters)
    if sizes.max() == 1 and bool(np.isin(outcomes, (0.0, 1.0)).all()):
        test = stats.binomtest(int(sums.sum()), len(sums))
        interval = test.proportion_ci(confidence_level=CONFIDENCE, method="wilson")
        low, high = float(interval.low), float(interval.high)
    else:
        low, high = _interval(sizes, sums, span=(0.0, 1.0), seed=seed)
    return Estimate(
        estimate=float(sums.sum() / sizes.sum()),
        low=low,
        high=high,
        items=len(outcomes),
        clusters=len(sizes),
    )


def compare(
    correct: Sequence[float],
    reference: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    seed: int,
) -> Comparison:
    """The candidate's accuracy against the reference's on the same items.

    Pairing removes what makes items hard for both models: only items that flip speak. The interval
    is the BCa bootstrap over clusters; if no cluster differs from another (no flips at all), see
    ``_unseen``. The p value is ``sign_flip_test`` of the clusters' summed differences.

    Args:
        correct: the candidate's outcome on every item, in [0, 1].
        reference: the reference's on the same items in the same order.
        clusters: one label per item.
        seed: of the bootstrap, and of the test's flips if outcomes are graded.

    Raises:
        ValueError: no items, other numbers of them, or an outcome outside [0, 1].
    """
    candidate, base = _outcomes(correct), _outcomes(reference)
    if len(candidate) != len(base):
        raise ValueError(f"{len(candidate)} outcomes against {len(base)}: not the same items")
    return _compare(candidate - base, clusters, most=1, seed=seed)


def language_losses(
    correct_by_language: Mapping[str, Sequence[float]],
    reference_by_language: Mapping[str, Sequence[float]],
    sources: Sequence[Hashable],
    *,
    baseline: str = "en",
    seed: int,
) -> dict[str, Comparison]:
    """What each language loses beyond what the baseline language loses, paired by source.

        difference = mean of (candidate - reference in the language)
                   - mean of (candidate - reference in the baseline)

    Each source gives one value, -2 to 2 for right and wrong answers; ``lost`` counts the sources
    where the language fares worse than the baseline, ``gained`` those where it fares better. The
    test is exact if a source's value is symmetric about 0 when the languages lose alike. Holm's
    correction is over the languages. ``detectable_loss`` is approximate: two steps count as one
    flip of their mean square.

    Args:
        correct_by_language: the candidate's outcomes, in every language in the order of sources.
        reference_by_language: the reference's, of the same languages.
        sources: what item i of every language is a translation of. Items with the same label (of
            one passage) form a cluster.
        baseline: the language that the others are held against.
        seed: as in ``compare``.

    Raises:
        ValueError: other languages, no baseline, other numbers of items, or an outcome outside
            [0, 1].
    """
    if set(correct_by_language) != set(reference_by_language):
        raise ValueError(
            f"languages {sorted(correct_by_language)} against {sorted(reference_by_language)}: "
            "give both models' outcomes in the same languages"
        )
    if baseline not in correct_by_language:
        raise ValueError(f"no outcomes in {baseline!r}, only in {sorted(correct_by_language)}")
    changes: dict[str, _Floats] = {}
    for language, correct in correct_by_language.items():
        candidate, base = _outcomes(correct), _outcomes(reference_by_language[language])
        if not len(candidate) == len(base) == len(sources):
            raise ValueError(
                f"{language!r}: {len(candidate)} and {len(base)} outcomes for {len(sources)} "
                "sources; give one per source"
            )
        changes[language] = candidate - base
    return adjust(
        {
            language: _compare(change - changes[baseline], sources, most=2, seed=seed)
            for language, change in changes.items()
            if language != baseline
        }
    )


def sign_flip_test(cluster_sums: Sequence[float] | _Floats, *, seed: int) -> float:
    """Two-sided p value of clusters' summed differences under random signs.

        p = P(abs(sum of +-s) >= abs(sum of s)), each sign + or - with probability 1/2

    Whole numbers (0/1 outcomes) get the exact distribution of all 2^clusters choices by
    convolution: of the k clusters with abs(s) = a, Binomial(k, 1/2) keep their sign. Clusters of
    one have a = 1 only, which leaves a binomial test of the flips: McNemar's exact test (McNemar
    1947). Others get SciPy's permutation test, whose 9,999 random choices include the one observed
    (Phipson and Smyth 2010), so that it too never has more false alarms than its level; it is exact
    for up to 13 clusters. A signed-rank test would ask another question, not about the mean.
    """
    sums = np.asarray(cluster_sums, dtype=np.float64)
    sums = sums[sums != 0]  # they have no sign to flip
    if len(sums) == 0:
        return 1.0
    if bool((sums != np.rint(sums)).any()):
        result = stats.permutation_test(
            (sums,),
            lambda flipped, axis: flipped.sum(axis),
            permutation_type="samples",
            n_resamples=RESAMPLES,
            batch=max(1, _BLOCK // (2 * len(sums))),
            vectorized=True,
            rng=np.random.default_rng(seed),
        )
        return float(result.pvalue)
    magnitudes, counts = np.unique(np.abs(sums).astype(np.int64), return_counts=True)
    # Of the sum of the positive ones, 0 to total. Positive terms only, so that a tail of 1e-30
    # keeps its digits; a Fourier transform would drown it.
    positive = np.ones(1)
    for magnitude, count in zip(magnitudes, counts, strict=True):
        kept = np.zeros(magnitude * count + 1)
        kept[::magnitude] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        positive = np.convolve(positive, kept)
    signed = 2 * np.arange(len(positive)) - (len(positive) - 1)
    return min(1.0, float(positive[np.abs(signed) >= abs(sums.sum())].sum()))


def minimum_detectable_difference(
    *,
    items: int,
    discordance: float,
    design_effect: float = 1.0,
    tests: int = 1,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float | None:
    """Smallest loss of accuracy that McNemar's exact test would have found with this power.

        n = floor(items / design_effect),  psi = min(1, hypot(discordance, loss))
        flips ~ Binomial(n, psi),  of these lost ~ Binomial(flips, (psi + loss) / (2 psi))

    Solved for the loss at which P(two-sided p <= alpha / tests, more lost than gained) = power
    (the unconditional power of Connor 1987, "Sample size for testing differences in proportions
    for the paired-sample design", by exact sums instead of his normal approximation). The share of
    items that flip is what was observed and, on top of it, what the loss itself brings, added as
    independent spreads are. Simulated (margins shifted by a loss and blurred by rounding, 300 and
    1,000 items) the loss so found has a power of 80 to 84 %; with the larger of the two alone it
    would be 65 to 79 %, and the loss understated.

    Args:
        items: that both models answered.
        discordance: share of items that flip in either direction, 0 to 1.
        design_effect: variance of the difference over its variance without clusters, at least 1.
        tests: comparisons made together; alpha / tests is Holm's strictest level.
        alpha: probability of any false alarm.
        power: probability of finding the loss.

    Returns:
        The loss, 0 to 1, to 1e-6; None if even losing every item would not be found.

    Raises:
        ValueError: an argument outside its range.
    """
    if items < 1 or tests < 1 or design_effect < 1 or not 0 <= discordance <= 1:
        raise ValueError(
            f"items {items}, tests {tests} and design_effect {design_effect} must be at least 1, "
            f"discordance {discordance} 0 to 1"
        )
    if not 0 < alpha < power < 1:
        raise ValueError(f"alpha {alpha} and power {power}: need 0 < alpha < power < 1")
    effective = int(items / design_effect + 1e-9)  # 300 / (300 / 29) is 28.999999999999996
    flips = np.arange(effective + 1)
    # Most losses, and so fewest gains, that are still no finding.
    allowed = stats.binom.isf(alpha / tests / 2, flips, 0.5)

    def shortfall(loss: float) -> float:
        psi = min(1.0, math.hypot(discordance, loss))
        found = stats.binom.sf(allowed, flips, (psi + loss) / (2 * psi))
        return float(stats.binom.pmf(flips, effective, psi) @ found) - power

    if shortfall(1.0) < 0:
        return None
    return float(optimize.brentq(shortfall, 1e-9, 1.0, xtol=1e-6))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979), in the order given.

    Of m values, the i-th smallest becomes the largest of (m - j + 1) p_j over j <= i, at most 1.
    Rejecting those at or below alpha keeps the probability of any false alarm at alpha, however the
    tests depend on each other.

    Raises:
        ValueError: a value outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError(f"p values must be 0 to 1, found {p[~((p >= 0) & (p <= 1))][0]}")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return [float(value) for value in adjusted]


def adjust(comparisons: Mapping[_Key, Comparison]) -> dict[_Key, Comparison]:
    """The comparisons corrected for each other: p values by ``holm``, detectable losses by m.

    Give all that are read together, such as every method on every suite.
    """
    adjusted = holm([comparison.p_value for comparison in comparisons.values()])
    return {
        key: replace(
            comparison,
            p_adjusted=p_adjusted,
            detectable_loss=_detectable(
                items=comparison.items,
                discordance=comparison.discordance,
                design_effect=comparison.design_effect,
                tests=len(comparisons),
            ),
        )
        for (key, comparison), p_adjusted in zip(comparisons.items(), adjusted, strict=True)
    }


def verdict(comparisons: Mapping[str, Comparison]) -> str:
    """One line on one method: what it loses and gains by suite, and what could be there unseen.

    Points are percentage points. "Would have been seen" is with a probability of 80 %; a suite of
    fewer than ``FEW_ITEMS`` items, or that would miss ``BLUNT_POINTS``, is said to be too small.

    Raises:
        ValueError: no comparisons, or such as were not passed through ``adjust``.
    """
    if not comparisons:
        raise ValueError("no comparisons to sum up")
    losses: list[str] = []
    gains: list[str] = []
    nothing: list[tuple[str, float]] = []
    small: list[tuple[str, float | None]] = []
    for suite, found in comparisons.items():
        detectable = found.detectable_loss
        if found.significant():
            sign, where = (-1, losses) if found.difference < 0 else (1, gains)
            where.append(_extent(suite, found, sign=sign))
        elif detectable is None or found.items < FEW_ITEMS or 100 * detectable > BLUNT_POINTS:
            small.append((suite, detectable))
        else:
            nothing.append((suite, detectable))
    parts = []
    if losses:
        parts.append("loses " + ", ".join(losses))
    if gains:
        parts.append("gains " + ", ".join(gains))
    if nothing:
        seen = _by_suite([(suite, f"{100 * loss:.1f}") for suite, loss in nothing])
        if len(nothing) == len(comparisons):
            parts.append(f"no loss found; losses above {seen} would have been seen")
        else:
            names = ", ".join(suite for suite, _ in nothing)
            parts.append(f"nothing found on {names} (losses above {seen} would have been seen)")
    for suite, loss in small:
        size = "any loss" if loss is None else f"losses below {100 * loss:.0f} points"
        place = f" on {suite}" if len(comparisons) > 1 else ""
        parts.append(f"too few items{place} to see {size}")
    return "; ".join(parts)


def _by_suite(values: Sequence[tuple[str, str]]) -> str:
    """``1.4 points``, or ``1.4 points on json, 2.2 on code`` of several."""
    (first, value), *rest = values
    if not rest:
        return f"{value} points"
    return ", ".join([f"{value} points on {first}", *(f"{v} on {suite}" for suite, v in rest)])


def _extent(suite: str, comparison: Comparison, *, sign: int) -> str:
    """``3.1 points [1.2, 5.0] on json``; a loss's size is positive."""
    low, high = sorted((sign * comparison.low, sign * comparison.high))
    return (
        f"{100 * sign * comparison.difference:.1f} points "
        f"[{100 * low + 0.0:.1f}, {100 * high + 0.0:.1f}] on {suite}"
    )


def _outcomes(values: Sequence[float]) -> _Floats:
    """Checked and as an array."""
    outcomes = np.asarray(values, dtype=np.float64)
    if outcomes.ndim != 1 or len(outcomes) == 0:
        raise ValueError(f"outcomes of shape {outcomes.shape}: give at least one, in a flat list")
    wrong = np.flatnonzero(~((outcomes >= 0) & (outcomes <= 1)))
    if len(wrong):
        raise ValueError(f"item {wrong[0]} has outcome {outcomes[wrong[0]]}: must be 0 to 1")
    return outcomes


def _by_cluster(values: _Floats, clusters: Sequence[Hashable]) -> tuple[_Floats, _Floats]:
    """Every cluster's size and sum, in an order that does not depend on the items' or labels'."""
    if len(clusters) != len(values):
        raise ValueError(f"{len(clusters)} clusters for {len(values)} items: give each item one")
    numbers: dict[Hashable, int] = {}
    cluster = np.array([numbers.setdefault(label, len(numbers)) for label in clusters])
    sizes = np.bincount(cluster).astype(np.float64)
    # Rounded, so that sums that differ only by the order of addition are equal.
    sums = np.bincount(cluster, weights=values).astype(np.float64).round(12)
    order = np.lexsort((sums, sizes))
    return sizes[order], sums[order]


def _compare(
    differences: _Floats, clusters: Sequence[Hashable], *, most: int, seed: int
) -> Comparison:
    """Statistics of the items' differences, which lie in [-most, most]."""
    sizes, sums = _by_cluster(differences, clusters)
    # The bootstrap gets a difference and its mirror image as the same, so that exchanging the
    # models mirrors the interval (to the last digit, unless the data are their own mirror image).
    sign = 1 if np.sort(sums).tolist() >= np.sort(-sums).tolist() else -1
    bounds = _interval(sizes, sign * sums, span=(-most, most), seed=seed)
    low, high = sorted(sign * bound + 0.0 for bound in bounds)  # + 0.0: no negative zero
    p_value = sign_flip_test(sums, seed=seed)
    if p_value > 1 - CONFIDENCE:
        low, high = min(low, 0.0), max(high, 0.0)
    discordance = float(np.mean(differences**2))
    design_effect = _design_effect(differences, sizes, sums)
    return Comparison(
        difference=float(sums.sum() / sizes.sum()),
        low=low,
        high=high,
        lost=int((differences < 0).sum()),
        gained=int((differences > 0).sum()),
        p_value=p_value,
        detectable_loss=_detectable(
            items=len(differences), discordance=discordance, design_effect=design_effect, tests=1
        ),
        items=len(differences),
        clusters=len(sizes),
        discordance=discordance,
        design_effect=design_effect,
    )


def _interval(
    sizes: _Floats, sums: _Floats, *, span: tuple[float, float], seed: int
) -> tuple[float, float]:
    """BCa interval of sum(sums) / sum(sizes) over resampled clusters.

    Clusters alike in size and sum are one kind: a resample draws how many of each kind it has. With
    0/1 outcomes there are a handful of kinds, and 9,999 resamples take milliseconds.
    """
    means = sums / sizes
    if np.ptp(means) < 1e-9:
        return _unseen(float(means[0]), len(sizes), span)
    kinds, counts = np.unique(np.stack([sums, sizes], 1), axis=0, return_counts=True)
    totals = counts @ kinds
    observed = totals[0] / totals[1]
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(kinds))
    resampled = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, block):
        part = resampled[start : start + block]
        drawn = random.multinomial(len(sizes), counts / len(sizes), size=len(part)) @ kinds
        part[:] = drawn[:, 0] / drawn[:, 1]
    below = np.mean(resampled < observed) + np.mean(resampled == observed) / 2
    bias = stats.norm.ppf(below)
    without = totals - kinds  # jackknife: one cluster of each kind left out
    left_out = without[:, 0] / without[:, 1]
    pull = counts @ left_out / len(sizes) - left_out
    skew = counts @ pull**3 / (6 * (counts @ pull**2) ** 1.5)
    shifted = bias + stats.norm.ppf([_TAIL, 1 - _TAIL])
    levels = stats.norm.cdf(bias + shifted / (1 - skew * shifted))
    low, high = np.quantile(resampled, levels)
    return float(low), float(high)


def _unseen(mean: float, clusters: int, span: tuple[float, float]) -> tuple[float, float]:
    """Interval when all clusters agree: what others may exist that none of these showed.

    A bootstrap would give no width, and so claim certainty from two items as from two thousand.
    Of a kind of cluster that did not occur among c there are, at 95 % two-sided, less than
    1 - 0.025^(1/c) (Clopper and Pearson 1934; about 3.7 / c); the interval has so many lie at
    either end of the span.
    """
    share = 1 - _TAIL ** (1 / clusters)
    return mean + share * (span[0] - mean), mean + share * (span[1] - mean)


def _design_effect(differences: _Floats, sizes: _Floats, sums: _Floats) -> float:
    """Cluster-robust variance of the mean over its variance if items were independent; >= 1.

    Where no item differs from another nothing is known of how clusters hang together. Then each
    counts as one item, as if its items were copies: what could be missed is rather over- than
    understated.
    """
    mean = sums.sum() / sizes.sum()
    alone = float(((differences - mean) ** 2).sum())
    if alone < 1e-9:
        return len(differences) / len(sizes)
    together = float(((sums - mean * sizes) ** 2).sum())
    return min(max(1.0, round(together / alone, 9)), float(len(differences)))


def _detectable(
    *, items: int, discordance: float, design_effect: float, tests: int
) -> float | None:
    """The smallest loss found, also of values beyond -1 and 1: in units that make them flips."""
    unit = max(1.0, discordance**0.5)
    loss = minimum_detectable_difference(
        items=items, discordance=discordance / unit**2, design_effect=design_effect, tests=tests
    )
    return None if loss is None else unit * loss
