"""Paired statistics compare the accuracy of two models on the same items, which come in clusters.

An outcome is one item's value in [0, 1], mostly 0 (wrong) or 1 (right). Items that share a source
(translations of one question, questions on one passage) form a cluster: they are right or wrong
together, so that ten of them say less than ten items of their own. Clusters are what is drawn,
flipped and counted here; an item without relatives is a cluster of one.

    difference = mean over items of (candidate - reference)

Three things are said of a difference, each by the method that fits it best:

- how large it is: a BCa bootstrap over clusters (Efron 1987, "Better bootstrap confidence
  intervals"). A quantized model flips few items, and the distribution of a few flips is skewed:
  after 1 flip in 300 the percentile interval ends at 3 flips, BCa's at 6, the exact one at 5.6;
- whether it is there: the exact sign-flip test (`bench.stats.exact`). Were the two models alike,
  exchanging them within a cluster would change nothing, so that every choice of signs for the
  clusters' differences is equally likely. With clusters of one this is the exact McNemar test;
- what would have been found, had it been there: the exact power of that test.

What counts as found is the test's to say. A bootstrap of five losses and no gain knows no gain, and
excludes 0 where the test does not; then the interval is extended to 0. Simulated (100 to 1,000
items, discordance 1 to 30 %) it holds the truth in 93 to 100 % of comparisons; with about ten flips
or flipping clusters and fewer, in 88 % at worst.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bench.stats.exact import ALPHA, holm, minimum_detectable_difference, sign_flip_test
from bench.stats.windows import CONFIDENCE, RESAMPLES

_Key = TypeVar("_Key", bound=Hashable)
_Floats = NDArray[np.float64]
_TAIL = (1 - CONFIDENCE) / 2
_BLOCK = 2**21
"""Draws held in memory at a time, 16 MiB."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate is one model's accuracy with its 95 % interval."""

    estimate: float
    low: float
    high: float
    items: int
    clusters: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference holds a candidate against a reference on the same items.

    It is a fraction, not points.
    """

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
    """Two-sided, of this difference alone."""
    p_adjusted: float | None = None
    """After Holm's correction for the differences it is read with; set by ``adjust``."""
    detectable_loss: float | None
    """Smallest loss that would have been found; None if no loss would. ``adjust`` recomputes it."""
    items: int
    clusters: int
    discordance: float
    """Mean of the squared differences: the share of items that flip, where outcomes are 0 or 1."""
    design_effect: float
    """How many clustered items say as much as one of its own; 1 without clusters."""

    def significant(self, alpha: float = ALPHA) -> bool:
        """Say whether the difference is more than chance, after correction for all of them.

        Raises:
            ValueError: the difference was never corrected, so its p value could mislead.
        """
        if self.p_adjusted is None:
            raise ValueError("p_adjusted is None: pass all comparisons through adjust() first")
        return self.p_adjusted <= alpha


def accuracy(correct: Sequence[float], clusters: Sequence[Hashable], *, seed: int) -> Estimate:
    """Return the mean outcome with its 95 % interval.

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
) -> Difference:
    """Hold the candidate's accuracy against the reference's on the same items.

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
) -> dict[str, Difference]:
    """Return what each language loses beyond what the baseline loses, paired by source.

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


def adjust(differences: Mapping[_Key, Difference]) -> dict[_Key, Difference]:
    """Correct differences for each other: p values by ``holm``, detectable losses by their number.

    Give all that are read together, such as every method on every suite.
    """
    adjusted = holm([difference.p_value for difference in differences.values()])
    return {
        key: replace(
            difference,
            p_adjusted=p_adjusted,
            detectable_loss=_detectable(
                items=difference.items,
                discordance=difference.discordance,
                design_effect=difference.design_effect,
                tests=len(differences),
            ),
        )
        for (key, difference), p_adjusted in zip(differences.items(), adjusted, strict=True)
    }


def _outcomes(values: Sequence[float]) -> _Floats:
    """Return the outcomes as an array; refuse what is none."""
    outcomes = np.asarray(values, dtype=np.float64)
    if outcomes.ndim != 1 or len(outcomes) == 0:
        raise ValueError(f"outcomes of shape {outcomes.shape}: give at least one, in a flat list")
    wrong = np.flatnonzero(~((outcomes >= 0) & (outcomes <= 1)))
    if len(wrong):
        raise ValueError(f"item {wrong[0]} has outcome {outcomes[wrong[0]]}: must be 0 to 1")
    return outcomes


def _by_cluster(values: _Floats, clusters: Sequence[Hashable]) -> tuple[_Floats, _Floats]:
    """Return every cluster's size and sum, in an order that items and labels do not decide."""
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
) -> Difference:
    """Take the statistics of the items' differences, which lie in [-most, most]."""
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
    return Difference(
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
    """Return the BCa interval of sum(sums) / sum(sizes) over resampled clusters.

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
    """Return the interval when all clusters agree: what may exist that none of them showed.

    A bootstrap would give no width, and so claim certainty from two items as from two thousand.
    Of a kind of cluster that did not occur among c there are, at 95 % two-sided, less than
    1 - 0.025^(1/c) (Clopper and Pearson 1934; about 3.7 / c); the interval has so many lie at
    either end of the span.
    """
    share = 1 - _TAIL ** (1 / clusters)
    return mean + share * (span[0] - mean), mean + share * (span[1] - mean)


def _design_effect(differences: _Floats, sizes: _Floats, sums: _Floats) -> float:
    """Return the cluster-robust variance of the mean over that of independent items; >= 1.

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
    """Return the smallest loss found; values beyond -1 and 1 are scaled until they are flips."""
    unit = max(1.0, discordance**0.5)
    loss = minimum_detectable_difference(
        items=items, discordance=discordance / unit**2, design_effect=design_effect, tests=tests
    )
    return None if loss is None else unit * loss
