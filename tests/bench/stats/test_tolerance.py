"""Changes against tolerances: by hand, against SciPy, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.stats import tolerance
from bench.stats.tolerance import Arithmetic, decide, detectable, floor, spread


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(0).normal(0.2, 1, 50)
    found = decide(values, None, tolerance=0.1, gates=3)
    low, high = stats.t.interval(1 - 2 * 0.05 / 3, 49, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_clusters_count_once() -> None:
    values = np.random.default_rng(0).normal(size=40)
    alone = spread(values, None)
    tenfold = spread(np.repeat(values, 10), np.repeat(np.arange(40), 10).tolist())
    assert tenfold.mean == pytest.approx(alone.mean)
    assert tenfold.error == pytest.approx(alone.error)
    assert (tenfold.units, tenfold.size) == (40, 10)


@pytest.mark.parametrize(("mean", "outcome"), [(0.0, "pass"), (0.5, "no verdict"), (1.0, "fail")])
def test_three_outcomes(mean: float, outcome: str) -> None:
    values = np.random.default_rng(1).normal(size=400)
    values += mean - values.mean()
    found = decide(values, None, tolerance=0.5, gates=1)
    assert found.outcome == outcome
    assert found.change == pytest.approx(mean)


def test_no_verdict_says_how_many_units_would_decide() -> None:
    random = np.random.default_rng(2)
    values = random.normal(0.4, 1, 40)
    values += 0.4 - values.mean()
    found = decide(values, None, tolerance=0.5, gates=1)
    assert found.outcome == "no verdict"
    assert found.units_needed is not None
    more = random.normal(size=2 * found.units_needed)
    more = (more - more.mean()) / more.std(ddof=1) * values.std(ddof=1) + 0.4
    assert decide(more, None, tolerance=0.5, gates=1).outcome == "pass"
    few = more[: found.units_needed // 2]
    few = few - few.mean() + 0.4
    assert decide(few, None, tolerance=0.5, gates=1).outcome == "no verdict"


def test_nothing_changed_passes_even_at_0() -> None:
    found = decide([0.0] * 30, None, tolerance=0.0, gates=7)
    assert (found.outcome, found.low, found.high) == ("pass", 0.0, 0.0)


def test_one_unit_decides_nothing() -> None:
    found = decide([0.1, 0.1], ["a", "a"], tolerance=1.0, gates=1)
    assert found.outcome == "no verdict"
    assert math.isinf(found.high)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_measurement_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no samples|not finite"):
        decide(values, None, tolerance=1.0, gates=1)


def skewed(random: np.random.Generator, mean: float, count: int) -> np.ndarray:
    """Most windows hardly change, some by much: what calibration seeds do to a text."""
    return random.gamma(0.5, 1, count) * random.choice([-1, 1], count) * 0.05 + mean


@pytest.mark.parametrize("gates", [1, 6])
def test_wrong_failures_stay_at_or_below_the_nominal_rate(gates: int) -> None:
    random = np.random.default_rng(gates)
    failed = sum(
        any(
            decide(skewed(random, 0.01, 134), None, tolerance=0.01, gates=gates).outcome == "fail"
            for _ in range(gates)
        )
        for _ in range(1000)
    )
    assert failed <= stats.binom.isf(0.001, 1000, tolerance.ALPHA)


def test_a_shift_at_the_detectable_size_is_found() -> None:
    """Calibrations differ by 0.003, and windows take part in a regression unevenly."""
    random = np.random.default_rng(3)
    noise = spread(skewed(random, 0.0, 134), None)
    reruns = random.normal(0.001, 0.003, 10)
    shares = random.gamma(2, 0.5, 134)
    shares /= shares.mean()
    size = detectable(
        noise,
        reruns.tolist(),
        tolerance=0.01,
        gates=4,
        flips=False,
        uneven=spread(shares, None).error,
    )
    for regression, least in ((size, 0.8), (2 * size, 0.99)):
        found = 0
        for _ in range(1000):
            # Scaled to the spread that the printed size is of.
            values = skewed(random, 0.0, 134)
            values *= noise.error / spread(values, None).error
            values += random.normal(reruns.mean(), reruns.std(ddof=1))
            values += regression * random.choice(shares, 134)
            found += decide(values, None, tolerance=0.01, gates=4).outcome == "fail"
        assert found / 1000 >= least - 3 * math.sqrt(least * (1 - least) / 1000), found


def test_a_loss_of_items_at_the_detectable_size_is_found() -> None:
    random = np.random.default_rng(4)

    def flips(loss: float) -> np.ndarray:
        noise = random.choice([-1.0, 0.0, 1.0], 240, p=[0.03, 0.94, 0.03])
        lost = (random.random(240) < loss).astype(float)
        return noise + lost

    noise = spread(flips(0.0), None)
    size = detectable(noise, [0.0, 0.0, 0.0], tolerance=0.03, gates=4, flips=True)
    for loss, least in ((size, 0.8), (2 * size, 0.99)):
        found = sum(
            decide(flips(loss), None, tolerance=0.03, gates=4).outcome == "fail"
            for _ in range(1000)
        )
        assert found / 1000 >= least - 3 * math.sqrt(least * (1 - least) / 1000), (loss, found)


def test_items_that_never_changed_can_still_be_lost_by_chance() -> None:
    """With no noise at all two items of ten are no regression yet, by these bounds."""
    noise = spread([0.0] * 10, None)
    size = detectable(noise, [0.0, 0.0, 0.0], tolerance=0.0, gates=1, flips=True)
    assert decide([1.0] * 2 + [0.0] * 8, None, tolerance=0.0, gates=1).outcome == "no verdict"
    assert decide([1.0] * 8 + [0.0] * 2, None, tolerance=0.0, gates=1).outcome == "fail"
    assert 0.2 < size < 0.8
    # Windows that never change need no more than any change at all.
    assert detectable(noise, [0.0, 0.0], tolerance=0.0, gates=1, flips=False) == 0.0


def test_reruns_that_differ_and_reruns_that_were_better_make_it_larger() -> None:
    def size(reruns: list[float]) -> float:
        noise = spread([0.0, 0.01, -0.01, 0.005], None)
        return detectable(noise, reruns, tolerance=0.01, gates=1, flips=False)

    same = size([0.0, 0.0, 0.0])
    assert size([-0.01, 0.01, 0.0]) > same
    assert size([-0.01, -0.01, -0.01]) == pytest.approx(same + 0.01)
    assert size([0.01, 0.01, 0.01]) == pytest.approx(same)
    assert size([0.0]) == math.inf


def test_the_floor_is_a_prediction_bound() -> None:
    random = np.random.default_rng(5)
    below = sum(random.normal() <= floor(random.normal(size=6)) for _ in range(2000))
    assert below / 2000 >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 2000)
    worst = floor([-1.0, -2.0])  # the spread of reruns counts, and not that all were better
    assert worst == pytest.approx(floor([-1.0 + 1.5, -2.0 + 1.5]))
    assert worst > 0
    assert floor([0.0, 5.0, 0.1]) >= 5.0
    with pytest.raises(ValueError, match="at least two"):
        floor([1.0])


@pytest.mark.parametrize("count", [2, 16, 134])
def test_other_machines_stay_below_what_arithmetic_gives(count: int) -> None:
    random = np.random.default_rng(count)
    arithmetic = Arithmetic(shift=0.2, deviation=1.5)
    found = arithmetic.spread(spread([0.0] * count, None))
    assert found.error == pytest.approx(1.5 / math.sqrt(count))
    means = random.normal(0.2, 1.5, (4000, count)).mean(axis=1)
    rate = np.mean(means <= found.mean)
    assert abs(rate - 0.95) <= 3 * math.sqrt(0.05 * 0.95 / 4000)
    clustered = arithmetic.spread(spread([0.0] * 2 * count, [n // 2 for n in range(2 * count)]))
    assert clustered.error == pytest.approx(1.5 / math.sqrt(2 * count))
    assert clustered.units == count
