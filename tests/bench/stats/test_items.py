"""The statistics of task accuracy against SciPy, statsmodels, enumeration and simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bench.stats import items as paired
from bench.stats.exact import minimum_detectable_difference, sign_flip_test
from bench.stats.items import Difference, accuracy, adjust, compare, language_losses

contingency = pytest.importorskip("statsmodels.stats.contingency_tables")

Outcomes = tuple[list[float], list[float]]
Draw = Callable[[np.random.Generator], tuple[list[float], list[float], list[int]]]


def with_flips(lost: int, gained: int, *, items: int) -> Outcomes:
    """Candidate and reference; every item that does not flip is right in both."""
    candidate, reference = np.ones(items), np.ones(items)
    candidate[:lost] = 0
    reference[lost : lost + gained] = 0
    return candidate.tolist(), reference.tolist()


def from_changes(changes: np.ndarray, random: np.random.Generator) -> Outcomes:
    """Outcomes of 0 and 1 with these differences."""
    same = random.random(len(changes)) < 0.6
    reference = np.where(changes == 0, same, changes < 0).astype(float)
    return (reference + changes).tolist(), reference.tolist()


def alone(items: int, *, discordance: float, loss: float = 0.0) -> Draw:
    def draw(random: np.random.Generator) -> tuple[list[float], list[float], list[int]]:
        lost, gained = (discordance + loss) / 2, (discordance - loss) / 2
        changes = random.choice([-1, 0, 1], size=items, p=[lost, 1 - discordance, gained])
        return *from_changes(changes, random), list(range(items))

    return draw


def together(clusters: int, *, discordance: float, loss: float = 0.0) -> Draw:
    """Clusters of 1 to 5 items that nearly always flip together, and in the same direction."""

    def draw(random: np.random.Generator) -> tuple[list[float], list[float], list[int]]:
        cluster = np.repeat(np.arange(clusters), random.integers(1, 6, size=clusters))
        lost, gained = (discordance + loss) / 2, (discordance - loss) / 2
        direction = random.choice([-1, 0, 1], size=clusters, p=[lost, 1 - discordance, gained])
        changes = direction[cluster] * (random.random(len(cluster)) < 0.9)
        return *from_changes(changes, random), cluster.tolist()

    return draw


# The test of a difference


@pytest.mark.parametrize(
    ("lost", "gained"), [(0, 0), (1, 0), (6, 0), (3, 11), (40, 22), (7, 7), (300, 150)]
)
def test_without_clusters_the_test_is_mcnemars(lost: int, gained: int) -> None:
    found = compare(*with_flips(lost, gained, items=500), range(500), seed=0)
    table = [[500 - lost - gained, gained], [lost, 0]]
    assert found.p_value == pytest.approx(contingency.mcnemar(table, exact=True).pvalue, rel=1e-9)
    if lost + gained:
        binomial = stats.binomtest(lost, lost + gained).pvalue
        assert found.p_value == pytest.approx(binomial, rel=1e-9)
    assert (found.lost, found.gained) == (lost, gained)
    assert found.difference == pytest.approx((gained - lost) / 500, abs=1e-15)
    assert found.discordance == pytest.approx((gained + lost) / 500, abs=1e-15)


def test_graded_outcomes_are_tested_by_their_mean() -> None:
    random = np.random.default_rng(2)
    reference = random.random(400) * 0.8 + 0.1
    noise = random.normal(0, 0.02, 400)
    worse = compare((reference - 0.01 + noise).tolist(), reference.tolist(), range(400), seed=0)
    alike = compare((reference + noise).tolist(), reference.tolist(), range(400), seed=0)
    assert worse.p_value == pytest.approx(1 / 5000)  # 9,999 random choices and the one observed
    assert worse.high < 0
    assert alike.p_value == pytest.approx(stats.ttest_1samp(noise, 0).pvalue, abs=0.02)
    assert alike.low < 0 < alike.high


# Intervals


def test_unclustered_accuracy_has_wilsons_interval() -> None:
    found = accuracy([1.0] * 30 + [0.0] * 10, range(40), seed=0)
    theirs = stats.binomtest(30, 40).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert (found.estimate, found.items, found.clusters) == (0.75, 40, 40)


@pytest.mark.parametrize("graded", [False, True])
def test_the_interval_is_the_bca_bootstrap(graded: bool) -> None:
    """SciPy draws other resamples, so that the ends agree within the spread over seeds."""
    random = np.random.default_rng(3)
    candidate, reference, labels = together(150, discordance=0.3, loss=0.1)(random)
    if graded:
        candidate = [c * 0.9 + 0.05 * random.random() for c in candidate]
    changes = np.array(candidate) - np.array(reference)
    sizes = np.bincount(labels)
    sums = np.bincount(labels, weights=changes)

    def ratio(s: np.ndarray, n: np.ndarray, axis: int) -> np.ndarray:
        return np.asarray(s.sum(axis) / n.sum(axis))

    theirs = stats.bootstrap(
        (sums, sizes), ratio, paired=True, vectorized=True, method="BCa", n_resamples=9999,
        batch=500, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    found = compare(candidate, reference, labels, seed=0)
    assert found.difference == pytest.approx(changes.mean(), abs=1e-12)
    width = theirs.high - theirs.low
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)


def test_clusters_widen_the_interval_of_an_accuracy() -> None:
    """Four copies of every item say what one does."""
    answers = [1.0] * 70 + [0.0] * 30
    single = accuracy(answers, range(100), seed=0)
    copies = accuracy(answers * 4, list(range(100)) * 4, seed=0)
    assert (copies.items, copies.clusters) == (400, 100)
    assert copies.high - copies.low == pytest.approx(single.high - single.low, rel=0.06)
    believed = accuracy(answers * 4, range(400), seed=0)
    assert believed.high - believed.low < 0.55 * (copies.high - copies.low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_is_not_certain(value: float) -> None:
    single = accuracy([value] * 50, range(50), seed=0)
    clustered = accuracy([value] * 50, [i // 2 for i in range(50)], seed=0)
    exact = stats.binomtest(int(25 * value), 25).proportion_ci(method="exact")
    assert (clustered.low, clustered.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert 0 <= clustered.low <= single.low <= value <= single.high <= clustered.high <= 1
    assert 0.05 < single.high - single.low < clustered.high - clustered.low


def test_equal_differences_have_an_interval_as_wide_as_what_may_be_unseen() -> None:
    same = compare(*with_flips(0, 0, items=300), range(300), seed=0)
    unseen = stats.binomtest(0, 300).proportion_ci(method="exact").high
    assert (same.difference, same.p_value, same.lost, same.gained) == (0.0, 1.0, 0, 0)
    assert (same.low, same.high) == pytest.approx((-unseen, unseen), abs=1e-9)
    gone = compare([0.0] * 20, [1.0] * 20, range(20), seed=0)
    assert (gone.difference, gone.low) == (-1.0, -1.0)
    assert -1 < gone.high < -0.5
    half = compare([0.5] * 20, [0.75] * 20, range(20), seed=0)
    assert -1 < half.low < -0.25 < half.high < 0


def test_an_interval_excludes_zero_only_if_the_test_does() -> None:
    """The bootstrap of five losses without a gain knows no gain; the test says 1 in 16."""
    found = compare(*with_flips(5, 0, items=200), range(200), seed=0)
    assert found.p_value == pytest.approx(1 / 16)
    assert (found.low < 0, found.high) == (True, 0.0)
    assert compare(*with_flips(6, 0, items=200), range(200), seed=0).high < 0


# What holds whatever the data


@pytest.mark.parametrize("make", [alone(90, discordance=0.2), together(30, discordance=0.4)])
def test_order_and_names_do_not_matter(make: Draw) -> None:
    random = np.random.default_rng(4)
    for _ in range(10):
        candidate, reference, labels = make(random)
        found = compare(candidate, reference, labels, seed=5)
        order = random.permutation(len(labels))
        shuffled = compare(
            [candidate[i] for i in order],
            [reference[i] for i in order],
            [f"source {-labels[i]}" for i in order],
            seed=5,
        )
        assert shuffled == found
        assert accuracy(candidate, labels, seed=5) == accuracy(
            [candidate[i] for i in order], [labels[i] for i in order], seed=5
        )


@pytest.mark.parametrize("make", [alone(90, discordance=0.2), together(30, discordance=0.4)])
def test_exchanging_the_models_mirrors_everything(make: Draw) -> None:
    random = np.random.default_rng(6)
    for _ in range(20):
        candidate, reference, labels = make(random)
        found = compare(candidate, reference, labels, seed=5)
        other = compare(reference, candidate, labels, seed=5)
        if found.lost == found.gained:  # its own mirror image: the same resamples, not mirrored
            low, high = -found.high, -found.low
            assert (other.low, other.high) == pytest.approx((low, high), abs=1.5 / len(labels))
            continue
        assert other == replace(
            found,
            difference=0.0 - found.difference,
            low=0.0 - found.high,
            high=0.0 - found.low,
            lost=found.gained,
            gained=found.lost,
        )


def test_the_seed_decides_the_resamples_alone() -> None:
    candidate, reference, labels = together(60, discordance=0.4)(np.random.default_rng(7))
    first, again, other = (compare(candidate, reference, labels, seed=s) for s in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)
    assert replace(first, low=0, high=0) == replace(other, low=0, high=0)


def test_one_item_says_nothing() -> None:
    found = compare([0.0], [1.0], ["only"], seed=0)
    assert (found.difference, found.p_value, found.detectable_loss) == (-1.0, 1.0, None)
    assert (found.low, found.high) == (-1.0, pytest.approx(0.95))
    assert accuracy([1.0], ["only"], seed=0).low < 0.3


def test_one_cluster_says_nothing() -> None:
    found = compare(*with_flips(8, 1, items=20), ["only"] * 20, seed=0)
    assert found.p_value == 1.0
    assert found.low < -0.9
    assert found.high > 0


@pytest.mark.parametrize(
    ("candidate", "reference", "labels", "message"),
    [
        ([], [], [], "at least one"),
        ([[1.0]], [[1.0]], [0], r"shape \(1, 1\)"),
        ([1.0, 0.0], [1.0], [0, 1], "2 outcomes against 1: not the same items"),
        ([1.0, 0.0], [1.0, 1.0], [0], "1 clusters for 2 items"),
        ([1.0, math.nan], [1.0, 1.0], [0, 1], "item 1 has outcome nan"),
        ([1.0, 0.0], [-0.1, 1.0], [0, 1], r"item 0 has outcome -0\.1: must be 0 to 1"),
        ([1.0, 1.5], [0.0, 1.0], [0, 1], r"item 1 has outcome 1\.5"),
    ],
)
def test_bad_outcomes_are_refused(
    candidate: list[float], reference: list[float], labels: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(candidate, reference, labels, seed=0)


def test_bad_outcomes_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="at least one"):
        accuracy([], [], seed=0)
    with pytest.raises(ValueError, match="1 clusters for 2 items"):
        accuracy([1.0, 0.0], [0], seed=0)
    with pytest.raises(ValueError, match="item 0 has outcome nan"):
        accuracy([math.nan], [0], seed=0)


# Many comparisons


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations of hundreds of comparisons need no ends to the third digit."""
    monkeypatch.setattr(paired, "RESAMPLES", 999)


def null_comparisons(makes: Sequence[Draw], count: int, seed: int) -> list[Difference]:
    random = np.random.default_rng(seed)
    return [compare(*makes[i % len(makes)](random), seed=i) for i in range(count)]


def bound(rate: float, trials: int, sigmas: float) -> float:
    """A rate, and so many standard errors of a simulation's."""
    return rate + sigmas * math.sqrt(rate * (1 - rate) / trials)


@pytest.mark.usefixtures("fewer_resamples")
def test_1000_null_comparisons_raise_no_more_than_the_nominal_false_alarms() -> None:
    """Exact tests keep below 5 %, and the intervals hold the truth in 95 % less 3 standard errors.

    Each discordance alone must stay below 5 % and 3 standard errors of its 250 comparisons.
    """
    makes = [alone(200, discordance=rate) for rate in (0.02, 0.05, 0.15, 0.4)]
    found = null_comparisons(makes, 1000, seed=8)
    assert sum(f.p_value <= 0.05 for f in found) <= 50
    for i in range(4):
        assert sum(f.p_value <= 0.05 for f in found[i::4]) <= 250 * bound(0.05, 250, 3)
    assert sum(f.low <= 0 <= f.high for f in found) >= 1000 * bound(0.95, 1000, -3)


@pytest.mark.usefixtures("fewer_resamples")
def test_1000_clustered_null_comparisons_raise_no_more_either() -> None:
    makes = [together(80, discordance=rate) for rate in (0.1, 0.3)]
    found = null_comparisons(makes, 1000, seed=9)
    assert np.median([f.design_effect for f in found]) > 2.5
    assert sum(f.p_value <= 0.05 for f in found) <= 50
    assert sum(f.low <= 0 <= f.high for f in found) >= 1000 * bound(0.95, 1000, -3)


def test_ignoring_the_clusters_would_raise_false_alarms() -> None:
    random = np.random.default_rng(10)
    alarms = 0
    for _ in range(300):
        candidate, reference, _ = together(80, discordance=0.3)(random)
        changes = np.array(candidate) - np.array(reference)
        alarms += sign_flip_test(changes, seed=0) <= 0.05
    assert alarms > 300 * 0.15


@pytest.mark.usefixtures("fewer_resamples")
@pytest.mark.parametrize(
    ("make", "truth"),
    [
        (alone(300, discordance=0.08, loss=0.04), -0.04),
        (together(100, discordance=0.4, loss=0.2), -0.2 * 0.9),
    ],
    ids=["alone", "together"],
)
def test_the_interval_covers_a_true_loss(make: Draw, truth: float) -> None:
    """95 % less 3 standard errors of 300 comparisons."""
    random = np.random.default_rng(11)
    covered = 0
    for i in range(300):
        found = compare(*make(random), seed=i)
        covered += found.low <= truth <= found.high
    assert covered >= 300 * bound(0.95, 300, -3)


# What would have been found


def test_the_detectable_loss_holds_with_clusters() -> None:
    """Approximate there, the design effect being that of one sample: found 7 to 9 times in 10."""
    random = np.random.default_rng(13)
    losses = []
    for i in range(20):
        detectable = compare(*together(150, discordance=0.3)(random), seed=i).detectable_loss
        assert detectable is not None
        losses.append(detectable)
    make = together(150, discordance=0.3, loss=float(np.mean(losses)) / 0.9)
    found = 0
    for _ in range(400):
        candidate, reference, labels = make(random)
        changes = np.array(candidate) - np.array(reference)
        sums = np.bincount(labels, weights=changes)
        found += sums.sum() < 0 and sign_flip_test(sums, seed=0) <= 0.05
    assert 0.7 <= found / 400 <= 0.9


def test_without_flips_a_cluster_counts_as_one_item() -> None:
    outcomes = with_flips(0, 0, items=203)
    found = compare(*outcomes, [i % 29 for i in range(203)], seed=0)
    assert found.design_effect == 7
    assert found.detectable_loss == minimum_detectable_difference(items=29, discordance=0.0)


# Correction


def test_significance_counts_all_comparisons() -> None:
    """8 flips of 8: p = 1 / 128, enough alone and among 6, too little among 7."""
    found = compare(*with_flips(8, 0, items=300), range(300), seed=0)
    same = compare(*with_flips(0, 0, items=300), range(300), seed=0)
    with pytest.raises(ValueError, match="adjust"):
        found.significant()
    assert adjust({"json": found})["json"].significant()
    assert not adjust({"json": found})["json"].significant(alpha=0.005)
    six = adjust({"json": found, **{str(i): same for i in range(5)}})
    seven = adjust({"json": found, **{str(i): same for i in range(6)}})
    assert six["json"].p_adjusted == pytest.approx(6 / 128)
    assert six["json"].significant()
    assert not seven["json"].significant()
    assert not seven["0"].significant()
    assert list(seven) == ["json", *"012345"]
    assert seven["0"].detectable_loss == minimum_detectable_difference(
        items=300, discordance=0.0, tests=7
    )
    assert adjust({}) == {}


# Languages


def test_a_language_is_held_against_english_source_by_source() -> None:
    random = np.random.default_rng(15)
    sources = [f"question {i}" for i in range(250)]
    reference = {language: (random.random(250) < 0.7).astype(float) for language in "abc"}
    candidate = {language: outcomes.copy() for language, outcomes in reference.items()}
    candidate["a"][:20] = 0  # the baseline loses too
    candidate["b"][:20] = 0  # as much as the baseline
    candidate["c"][50:130] = 0  # and this one far more
    found = language_losses(candidate, reference, sources, baseline="a", seed=0)
    assert list(found) == ["b", "c"]

    for language, comparison in found.items():
        beyond = (candidate[language] - reference[language]) - (candidate["a"] - reference["a"])
        assert comparison.difference == pytest.approx(beyond.mean(), abs=1e-12)
        assert comparison.p_value == sign_flip_test(beyond, seed=0)
        assert (comparison.lost, comparison.gained) == ((beyond < 0).sum(), (beyond > 0).sum())
        assert comparison.low <= comparison.difference <= comparison.high
    assert not found["b"].significant()
    assert found["c"].significant()
    assert found["c"].p_adjusted == pytest.approx(2 * found["c"].p_value)
    passages = language_losses(
        candidate, reference, [i // 5 for i in range(250)], baseline="a", seed=0
    )
    assert passages["c"].clusters == 50
    assert passages["c"].p_value > found["c"].p_value


def test_opposite_flips_are_two_steps() -> None:
    wrong, right = [0.0] * 40, [1.0] * 40
    found = language_losses(
        {"en": right, "de": wrong}, {"en": wrong, "de": right}, list(range(40)), seed=0
    )["de"]
    assert (found.difference, found.low, found.discordance) == (-2.0, -2.0, 4.0)
    assert -2 < found.high < -1.5
    assert found.p_value == pytest.approx(2.0**-39)
    loss = minimum_detectable_difference(items=40, discordance=1.0)
    assert loss is not None
    assert found.detectable_loss == pytest.approx(2 * loss)


def test_languages_must_match() -> None:
    one = {"en": [1.0], "de": [1.0]}
    with pytest.raises(ValueError, match=r"\['de', 'en'\] against \['en'\]"):
        language_losses(one, {"en": [1.0]}, [0], seed=0)
    with pytest.raises(ValueError, match="no outcomes in 'fr'"):
        language_losses(one, one, [0], baseline="fr", seed=0)
    with pytest.raises(ValueError, match="'de': 1 and 2 outcomes for 1 sources"):
        language_losses(one, {"en": [1.0], "de": [1.0, 0.0]}, [0], seed=0)


def test_blocks_do_not_change_the_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, reference, labels = together(40, discordance=0.4)(np.random.default_rng(16))
    found = compare(candidate, reference, labels, seed=0)
    monkeypatch.setattr(paired, "_BLOCK", 1000)
    assert compare(candidate, reference, labels, seed=0) == found
