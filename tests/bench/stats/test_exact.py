"""Exact tests against SciPy, statsmodels, enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from bench.stats.exact import holm, minimum_detectable_difference, sign_flip_test

multitest = pytest.importorskip("statsmodels.stats.multitest")


def test_the_convolution_is_the_enumeration_of_all_signs() -> None:
    random = np.random.default_rng(0)
    for _ in range(40):
        sums = random.integers(-4, 5, size=random.integers(1, 12))
        signs = np.array(list(itertools.product([-1, 1], repeat=len(sums))))
        enumerated = np.mean(np.abs(signs @ sums) >= abs(sums.sum()))
        assert sign_flip_test(sums.astype(float), seed=0) == pytest.approx(enumerated, abs=1e-12)


def test_the_test_is_scipys_where_that_is_exact() -> None:
    random = np.random.default_rng(1)
    for graded in (False, True):
        sums = random.integers(-3, 4, size=11) + (random.random(11) - 0.4 if graded else 0.0)
        theirs = stats.permutation_test(
            (sums,), np.sum, permutation_type="samples", n_resamples=np.inf
        ).pvalue
        assert sign_flip_test(sums, seed=0) == pytest.approx(theirs, abs=1e-9)


def test_a_tiny_p_value_keeps_its_digits() -> None:
    assert sign_flip_test([-2.0] * 200, seed=0) == pytest.approx(2.0**-199, rel=1e-9)


@pytest.mark.parametrize(
    ("items", "discordance", "tests"),
    [(300, 0.08, 1), (300, 0.0, 1), (1000, 0.1, 12), (60, 0.3, 7), (240, 0.01, 84)],
)
def test_the_detectable_loss_is_found_four_times_in_five(
    items: int, discordance: float, tests: int
) -> None:
    loss = minimum_detectable_difference(items=items, discordance=discordance, tests=tests)
    assert loss is not None
    psi = min(1.0, math.hypot(discordance, loss))
    random = np.random.default_rng(12)
    simulated = random.multinomial(
        items, [(psi + loss) / 2, max(0, psi - loss) / 2, 1 - psi], size=4000
    )
    p_values: dict[tuple[int, int], float] = {}
    found = 0
    for lost, gained, _ in simulated.tolist():
        if (lost, gained) not in p_values and lost + gained:
            p_values[lost, gained] = stats.binomtest(lost, lost + gained).pvalue
        found += lost > gained and p_values[lost, gained] <= 0.05 / tests
    assert found / 4000 == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 4000))


def test_more_items_see_less_and_more_noise_hides_more() -> None:
    def loss(**changed: float) -> float:
        arguments = {"items": 400, "discordance": 0.1, "design_effect": 1.0, "tests": 1}
        found = minimum_detectable_difference(**{**arguments, **changed})  # type: ignore[arg-type]
        assert found is not None
        return found

    assert loss(items=1600) < 0.6 * loss()
    assert loss(discordance=0.3) > 1.5 * loss()
    assert loss(tests=12) > loss()
    assert loss(alpha=0.01) > loss()
    assert loss(power=0.9) > loss()
    assert loss(design_effect=4.0) == loss(items=100)


def test_too_few_items_would_find_nothing() -> None:
    """Five losses of five have p = 1 / 16; six of six 1 / 32."""
    assert minimum_detectable_difference(items=5, discordance=0.0) is None
    assert minimum_detectable_difference(items=6, discordance=0.0) == pytest.approx(
        0.8 ** (1 / 6), abs=1e-5
    )
    assert minimum_detectable_difference(items=6, discordance=0.0, tests=2) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"items": 0},
        {"tests": 0},
        {"design_effect": 0.5},
        {"discordance": 1.5},
        {"alpha": 0.0},
        {"power": 1.0},
        {"alpha": 0.9},
    ],
)
def test_a_senseless_question_is_refused(wrong: dict[str, float]) -> None:
    arguments = {"items": 100, "discordance": 0.1, **wrong}
    with pytest.raises(ValueError, match=r"must be at least 1|need 0 < alpha"):
        minimum_detectable_difference(**arguments)  # type: ignore[arg-type]


def test_holm_is_statsmodels() -> None:
    random = np.random.default_rng(14)
    for count in (1, 2, 7, 84):
        p_values = np.concatenate([random.random(count) ** 3, [0.5, 0.5, 0.0, 1.0][: count // 2]])
        theirs = multitest.multipletests(p_values, method="holm")[1]
        assert holm(p_values.tolist()) == pytest.approx(theirs.tolist(), abs=1e-9)
    assert holm([]) == []


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1])
def test_holm_refuses_what_is_no_probability(value: float) -> None:
    with pytest.raises(ValueError, match=f"found {value}"):
        holm([0.5, value])
