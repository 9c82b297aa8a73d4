"""A line tells what a model loses by suite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.stats.items import Difference

FEW_ITEMS = 20
"""Below this nothing is said of what was not found, but that there are too few items."""
BLUNT_POINTS = 20
"""Likewise where only losses above this many percentage points would have been difference."""


def told(differences: Mapping[str, Difference]) -> str:
    """Tell what a method loses and gains by suite, and what could be there unseen, in a line.

    Points are percentage points. "Would have been seen" is with a probability of 80 %; a suite of
    fewer than ``FEW_ITEMS`` items, or that would miss ``BLUNT_POINTS``, is said to be too small.

    Raises:
        ValueError: no differences, or such as were not passed through ``adjust``.
    """
    if not differences:
        raise ValueError("no comparisons to sum up")
    losses: list[str] = []
    gains: list[str] = []
    nothing: list[tuple[str, float]] = []
    small: list[tuple[str, float | None]] = []
    for suite, difference in differences.items():
        detectable = difference.detectable_loss
        if difference.significant():
            sign, where = (-1, losses) if difference.difference < 0 else (1, gains)
            where.append(_extent(suite, difference, sign=sign))
        elif detectable is None or difference.items < FEW_ITEMS or 100 * detectable > BLUNT_POINTS:
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
        if len(nothing) == len(differences):
            parts.append(f"no loss found; losses above {seen} would have been seen")
        else:
            names = ", ".join(suite for suite, _ in nothing)
            parts.append(f"nothing found on {names} (losses above {seen} would have been seen)")
    for suite, loss in small:
        size = "any loss" if loss is None else f"losses below {100 * loss:.0f} points"
        place = f" on {suite}" if len(differences) > 1 else ""
        parts.append(f"too few items{place} to see {size}")
    return "; ".join(parts)


def _by_suite(values: Sequence[tuple[str, str]]) -> str:
    """Write ``1.4 points``, or ``1.4 points on json, 2.2 on code`` of several."""
    (first, value), *rest = values
    if not rest:
        return f"{value} points"
    return ", ".join(
        [f"{value} points on {first}", *(f"{value} on {suite}" for suite, value in rest)]
    )


def _extent(suite: str, difference: Difference, *, sign: int) -> str:
    """Write ``3.1 points [1.2, 5.0] on json``; a loss's size is positive."""
    low, high = sorted((sign * difference.low, sign * difference.high))
    return (
        f"{100 * sign * difference.difference:.1f} points "
        f"[{100 * low + 0.0:.1f}, {100 * high + 0.0:.1f}] on {suite}"
    )
