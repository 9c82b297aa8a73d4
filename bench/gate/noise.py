"""Noise is what a gate's change is when nothing that was declared changed.

Tolerances follow it: none lies below, and those that nobody named are made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bench.gate.baseline import OWN_REASON, Baseline, Rerun, Tolerance
from bench.gate.changes import Change
from bench.gate.units import shown
from bench.stats import tolerance
from bench.stats.tolerance import Spread
from quantcore.errors import refused


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise is what reruns showed of a gate."""

    means: tuple[float, ...]
    """They are of the reruns that were drawn, or of all where none was."""
    spread: Spread
    """It is the widest over windows or items."""
    floor: float
    """A rerun, here or on another machine, stays below it with a probability of 95 %."""

    def tolerance(self, gates: int) -> float:
        """Take twice the floor where nobody names one, so that a rerun's bound lies within too."""
        return 2 * self.floor + tolerance.bound_of(self.spread, gates=gates)


def noise_of(name: str, own: Change, reruns: Sequence[Rerun]) -> Noise | None:
    """Sum up what reruns showed of a gate; None where fewer than two of them say anything of it.

    Args:
        name: the gate.
        own: its change in the baseline against itself, for clusters.
        reruns: of the baseline.
    """
    if own.exact:
        return None
    seen = [
        (rerun.drawn, tolerance.spread(rerun.samples[name], own.clusters))
        for rerun in reruns
        if name in rerun.samples
    ]
    of_drawn = [spread.mean for drawn, spread in seen if drawn]
    means = tuple(of_drawn or [spread.mean for _, spread in seen])
    if len(means) < 2:
        return None
    spreads = [spread for _, spread in seen]
    spreads.append(own.arithmetic.spread(spreads[0]))  # reruns here may not differ at all
    return Noise(
        means=means,
        spread=replace(max(spreads, key=lambda spread: spread.error), mean=0.0),
        floor=max(tolerance.floor(means), *(spread.mean for spread in spreads)),
    )


def detectable_of(baseline: Baseline, name: str, own: Change, noise: Noise | None) -> float | None:
    """Find the smallest regression of a gate that is seen with a power of 80 %; None: not known."""
    if noise is None:
        return None
    return tolerance.detectable(
        noise.spread,
        noise.means,
        tolerance=baseline.tolerances[name].value,
        gates=gates_of(baseline.tolerances),
        flips=own.flips,
        uneven=own.uneven,
    )


def gates_of(names: Iterable[str]) -> int:
    """Count the gates that may err: a size is a figure, and nothing is inferred from it."""
    return max(1, len(set(names) - {"size"}))


def tolerance_of(
    name: str, asked: Tolerance | None, reruns: Sequence[Rerun], own: Change, *, gates: int
) -> Tolerance:
    """Take what was asked for, if it is not below the noise floor; else what reruns ask for.

    Args:
        name: the gate.
        asked: None where nobody named one.
        reruns: of the baseline.
        own: the gate's change in the baseline against itself.
        gates: how many are decided together; see `gates_of`.

    Raises:
        InputError: what was asked for is below the floor.
    """
    if own.exact:
        return asked or Tolerance(value=0.0, reason="the size is declared by the scheme")
    noise = noise_of(name, own, reruns)
    assert noise is not None, "every variation measures every gate, or times it again"
    if asked is None:
        return Tolerance(value=noise.tolerance(gates), reason=OWN_REASON)
    if asked.value < noise.floor:
        rule = (
            f"{shown(name, asked.value, written=True)} is below the noise floor of "
            f"{shown(name, noise.floor)}, below which reruns of the same declaration, here or on "
            "another machine, stay 95 times in 100; give "
            # Above the floor however it is rounded: two digits are off by 5 % at most.
            f"{shown(name, 1.1 * noise.floor)} or more (what was measured is kept for the same "
            "command)"
        )
        raise refused("tolerances", name, rule)
    return asked
