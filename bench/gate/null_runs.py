"""How often a baseline's gates cry wolf, and how often they catch a regression: 1,000 reruns.

A null run is one of the reruns that were made (another calibration seed), its windows or items
resampled with replacement. Where nobody named a tolerance the one that it meets is made of the
*other* reruns. A regression is planted on top: spread over windows as what quantization costs is,
or as items that flip from right to wrong.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.gate.gate import (
    OWN_REASON,
    Baseline,
    Change,
    Tolerance,
    detectable_of,
    gates_of,
    noise_of,
    own_changes,
    read,
    shown,
)
from bench.report import escape
from bench.stats.tolerance import Outcome, decide
from quantcore.errors import InputError

RUNS = 1000
_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Counts over null runs."""

    runs: int
    outcomes: dict[Outcome, int]
    """Of all gates together."""
    caught: dict[str, tuple[int, int]]
    """By gate: runs in which a regression of the detectable size failed, and one of twice that;
    without gates of which none would."""


@dataclass(frozen=True, kw_only=True)
class _Gate:
    """One gate against one rerun that is left out."""

    name: str
    changes: _Floats
    own: Change
    tolerance: float
    detectable: float


def null_runs(baseline: Baseline, *, runs: int = RUNS, seed: int = 0) -> Rates | None:
    """Resample the reruns of a baseline, and decide; None where too few of them were drawn.

    Args:
        baseline: with its reruns.
        runs: how many.
        seed: of resampling.
    """
    random = np.random.default_rng(seed)
    settings = _left_out(baseline)
    if not settings:
        return None
    outcomes: dict[Outcome, int] = {"pass": 0, "no verdict": 0, "fail": 0}
    caught: dict[str, list[int]] = {}
    for number in range(runs):
        found: set[Outcome] = set()
        for gate in settings[number % len(settings)]:
            drawn, clusters = _resampled(random, gate.own.clusters, len(gate.changes))
            changes = gate.changes[drawn]

            def decided(changes: _Floats, gate: _Gate = gate) -> Outcome:
                return decide(
                    changes,
                    clusters,  # noqa: B023  used at once
                    tolerance=gate.tolerance,
                    gates=gates_of(baseline.tolerances),
                ).outcome

            found.add(decided(changes))
            if math.isinf(gate.detectable):
                continue
            counts = caught.setdefault(gate.name, [0, 0])
            for index, times in enumerate((1, 2)):
                planted = _planted(random, gate, drawn, times * gate.detectable)
                counts[index] += decided(changes + planted) == "fail"
        outcomes[next((o for o in ("fail", "no verdict") if o in found), "pass")] += 1
    return Rates(
        runs=runs,
        outcomes=outcomes,
        caught={name: (one, two) for name, (one, two) in caught.items()},
    )


def _left_out(baseline: Baseline) -> list[list[_Gate]]:
    """For each rerun that was drawn its gates, with what the others say of them."""
    found = []
    own = own_changes(baseline)
    for left_out in baseline.reruns:
        if not left_out.drawn:
            continue
        others = [one for one in baseline.reruns if one is not left_out]
        gates = []
        for name, allowed in baseline.tolerances.items():
            noise = None
            if name in left_out.samples and name in own:
                noise = noise_of(name, own[name], others)
            if noise is None:
                continue
            own_value = noise.tolerance(gates_of(baseline.tolerances))
            value = own_value if allowed.reason == OWN_REASON else allowed.value
            judged = replace(
                baseline,
                tolerances={**baseline.tolerances, name: Tolerance(value=value, reason="")},
            )
            size = detectable_of(judged, name, own[name], noise)
            assert size is not None
            gates.append(
                _Gate(
                    name=name,
                    changes=np.asarray(left_out.samples[name]),
                    own=own[name],
                    tolerance=value,
                    detectable=size,
                )
            )
        if gates:
            found.append(gates)
    return found


def _resampled(
    random: np.random.Generator, clusters: Sequence[Hashable] | None, count: int
) -> tuple[NDArray[np.int64], list[int] | None]:
    """Samples of clusters drawn with replacement, and the clusters they make."""
    if clusters is None:
        return random.integers(count, size=count), None
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(clusters):
        members.setdefault(label, []).append(index)
    every = list(members.values())
    chosen = [every[k] for k in random.integers(len(every), size=len(every))]
    labels = [number for number, one in enumerate(chosen) for _ in one]
    return np.asarray([index for one in chosen for index in one]), labels


def _planted(
    random: np.random.Generator, gate: _Gate, drawn: NDArray[np.int64], size: float
) -> _Floats:
    if gate.own.flips:
        return (random.random(len(drawn)) < size).astype(np.float64)
    if gate.own.shares is None:
        return np.full(len(drawn), size)
    return size * np.asarray(gate.own.shares)[drawn]


def table(baselines: Sequence[Path]) -> str:
    """A Markdown table of every baseline's rates."""
    heads = ["baseline", "gate", "tolerance", "detected from"]
    heads += ["null runs failed", "no verdict", "caught at that size", "at twice that"]
    lines = [heads]
    for path in baselines:
        baseline = read(path)
        rates = null_runs(baseline)
        if rates is None:
            lines.append([path.stem, "no calibration, nothing was drawn", *[""] * 6])
            continue
        first = [path.stem, *(str(rates.outcomes[one]) for one in ("fail", "no verdict"))]
        for name, own in own_changes(baseline).items():
            size = detectable_of(baseline, name, own, noise_of(name, own, baseline.reruns))
            if size is None or name not in rates.caught:
                continue
            allowed = shown(name, baseline.tolerances[name].value, written=True)
            cells = [name, allowed, shown(name, size)]
            caught = [f"{100 * one / rates.runs:.1f} %" for one in rates.caught[name]]
            lines.append([first[0], *cells, *first[1:], *caught])
            first = ["", "", ""]
    rows = [[escape.markdown(cell) for cell in line] for line in lines]
    rows.insert(1, ["---", "---", *["--:"] * 6])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description="How often gates cry wolf, and how often not.")
    _parser.add_argument("baselines", nargs="+", type=Path, metavar="FILE")
    try:
        print(table(_parser.parse_args().baselines), end="")
    except InputError as error:
        print(escape.line(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
