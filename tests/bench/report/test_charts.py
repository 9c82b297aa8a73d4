"""What charts mark."""

from __future__ import annotations

import pytest

from bench.report import charts


def test_the_crossover_lies_between_the_points_around_it() -> None:
    assert charts.crossover([1, 4, 16], [4.0, 2.0, 1.0]) is None
    assert charts.crossover([1, 4, 16], [4.0, 2.0, 0.5]) == pytest.approx(8)
    assert charts.crossover([1, 4, 16], [0.9, 0.8, 0.5]) == 1
    assert charts.crossover([1, 4, 16], [0.9, 2.0, 0.5]) == pytest.approx(8)
