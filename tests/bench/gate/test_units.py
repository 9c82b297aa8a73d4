"""Changes are shown, and tolerances read, in the unit of their gate."""

from __future__ import annotations

import math

import pytest

from bench.gate.units import parsed_tolerance, shown, unit_of


def test_changes_are_shown_in_their_units() -> None:
    found = [shown("perplexity", value) for value in (0.0, -0.0, 0.0031, float("inf"))]
    assert found == ["+0.00 %", "+0.00 %", "+0.31 %", "unbounded"]
    assert shown("divergence", 0.0012) == "+0.0012 nats"
    assert shown("json", -0.0123) == "-1.2 points"
    assert shown("throughput", 0.05) == "+4.88 %"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("perplexity", -4.12e-8, "-4.1e-06 %"),
        ("perplexity", 5.123e-5, "+0.0051 %"),
        ("perplexity", 2.01e-5, "+0.0020 %"),
        ("size", 1.26e-4, "+0.013 %"),
        ("divergence", 0.00012, "+0.00012 nats"),
        ("divergence", 1.04e-5, "+1.0e-05 nats"),
        ("json", -0.000416, "-0.042 points"),
    ],
)
def test_a_small_change_is_shown_by_two_digits_and_never_as_none(
    name: str, value: float, said: str
) -> None:
    assert shown(name, value) == said


@pytest.mark.parametrize("name", ["perplexity", "divergence", "json", "size", "throughput"])
def test_a_tolerance_is_shown_as_it_was_written(name: str) -> None:
    places = {"nats": 4, "points": 1, "%": 2}[unit_of(name)]
    most = 100 if name == "throughput" else 300
    for number in (step * most / 997 for step in range(997)):
        written = f"{number:.{places}f} {unit_of(name)}"
        if float(f"{number:.{places}f}") < most:
            value = parsed_tolerance(name, written)
            assert shown(name, value) == f"+{written}"
            assert shown(name, value, written=True) == f"+{written}"
            assert parsed_tolerance(name, shown(name, value)) == value
    for written in ("0.12345", "1.00625", "0.00125", "1.25e-07"):
        value = parsed_tolerance(name, written)
        assert shown(name, value, written=True) == f"+{written} {unit_of(name)}"
    # Nobody wrote this one.
    assert shown("divergence", 4 / 3, written=True) == "+1.3333 nats"


def test_half_the_speed_is_half_the_speed() -> None:
    assert parsed_tolerance("throughput", "50%") == pytest.approx(math.log(2))
    for text in ("100%", "250", "-1%", "inf", "nan"):
        with pytest.raises(ValueError, match=text.removesuffix("%")):
            parsed_tolerance("throughput", text)
