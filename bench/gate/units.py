"""Changes and tolerances are shown, and tolerances are read, in the unit of their gate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.gate.baseline import Tolerance
from bench.gate.changes import SPEED
from quantcore.errors import InputError, refused, setting_name


def unit_of(name: str) -> str:
    """Name what people count a gate's change in."""
    if name in ("perplexity", "size", SPEED):
        return "%"
    return "nats" if name == "divergence" else "points"


def measure_of(name: str) -> str:
    """Name what the numbers of a gate are in files: a change, its bounds and its tolerance."""
    if name in ("perplexity", SPEED):
        return "natural logarithm of the ratio"
    return "nats" if name == "divergence" else "fraction"


def shown(name: str, value: float, *, written: bool = False) -> str:
    """Show a change in its unit: ``+0.31 %``, ``+0.0012 nats``, ``-1.2 points``, ``+4.1e-06 %``.

    Two digits of it are shown at least, so that only what is 0 looks like it.

    Args:
        name: the gate.
        value: in the gate's own measure.
        written: it may be a number that somebody wrote, which is shown with all of its digits.
    """
    if math.isinf(value):
        return "unbounded"
    if name == "perplexity":
        value = math.expm1(value)
    elif name == SPEED:
        value = -math.expm1(-value)
    unit = unit_of(name)
    if unit != "nats":
        value *= 100
    places = {"nats": 4, "points": 1, "%": 2}[unit]
    value += 0.0  # no -0
    digits = f"{value:+.9g}"
    if not written or not _same(digits, value):
        digits = f"{value:+.{places}f}"
        if abs(value) < 10 ** (1 - places) and not _same(digits, value):
            digits = f"{value:+#.2g}"
    if "e" in digits:
        return f"{digits} {unit}"
    whole, _, rest = digits.partition(".")
    return f"{whole}.{rest.ljust(places, '0')} {unit}"


def _same(digits: str, value: float) -> bool:
    """Tell whether they are this value, to what logarithms leave of it."""
    return math.isclose(float(digits), value, rel_tol=1e-13)


def parsed_tolerance(name: str, text: str) -> float:
    """Read a tolerance as people write it (``0.5%``, ``0.002``, ``2``) in its gate's own measure.

    `shown` is its inverse.

    Raises:
        ValueError: it is no finite number that is 0 or more, in this gate's unit, or is 100 % of a
            speed.
    """
    unit = unit_of(name)
    text = text.strip().removesuffix(unit)
    number = float(text if unit == "nats" else text.removesuffix("%"))
    if not math.isfinite(number) or number < 0 or (name == SPEED and number >= 100):
        raise ValueError(text)
    if unit == "nats":
        return number
    number /= 100
    if name == SPEED:
        return -math.log1p(-number)
    return math.log1p(number) if name == "perplexity" else number


def parse_tolerances(given: Sequence[str]) -> dict[str, Tolerance]:
    """Read tolerances as the command line takes them, ``GATE=VALUE:REASON`` each.

    Raises:
        InputError: one is not of that form, or a gate is named twice.
    """
    tolerances: dict[str, Tolerance] = {}
    for text in given:
        name, _, rest = text.partition("=")
        name = name.strip()
        value, _, reason = rest.partition(":")
        try:
            number = parsed_tolerance(name, value)
        except ValueError:
            most = " and below 100" if name == SPEED else ""  # no speed is less than none
            rule = (
                f"expected GATE=VALUE:REASON with a value of 0 or more{most} in {unit_of(name)}, "
                "such as 'perplexity=0.5%:what users accept'"
            )
            raise refused("tolerances", text, rule) from None
        if not reason.strip():
            rule = "a tolerance has a reason; add it after a colon"
            raise refused("tolerances", text, rule)
        if name in tolerances:
            twice = f"{setting_name('tolerances')} {name} is given twice; name each gate once"
            raise InputError(twice, setting="tolerances", found=name)
        tolerances[name] = Tolerance(value=number, reason=reason.strip())
    return tolerances
