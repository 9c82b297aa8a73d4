"""Null runs tell how often a baseline's gates cry wolf, and how often they catch a regression.

A null run is one of the reruns that were drawn (another calibration seed), its windows or items
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

from bench.gate.baseline import OWN_REASON, Baseline, Rerun, Tolerance, read
from bench.gate.changes import Change, own_changes
from bench.gate.noise import detectable_of, gates_of, noise_of
from bench.gate.units import shown
from bench.report import escape
from bench.stats.tolerance import Outcome, decide
from quantcore.errors import InputError

RUNS = 1000
_Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ErrorRates:
    """Error rates are counts over null runs."""

    runs: int
    outcomes: dict[Outcome, int]
    """They count the outcomes of all gates together."""
    caught: dict[str, tuple[int, int]]
    """They count, by gate, the runs in which a regression of the detectable size failed, and one of
    twice that; gates of which none would fail are left out."""


@dataclass(frozen=True, kw_only=True)
class _Gate:
    """One gate meets one rerun that is left out."""

    name: str
    changes: _Floats
    own: Change
    tolerance: float
    detectable: float
    gates: int
    """So many are decided together."""

    def decide(self, changes: _Floats, clusters: Sequence[int] | None) -> Outcome:
        """Hold changes to the tolerance."""
        return decide(changes, clusters, tolerance=self.tolerance, gates=self.gates).outcome


def null_runs(baseline: Baseline, *, runs: int = RUNS, seed: int = 0) -> ErrorRates | None:
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
        decided: set[Outcome] = set()
        for gate in settings[number % len(settings)]:
            drawn, clusters = _resampled(random, gate.own.clusters, len(gate.changes))
            changes = gate.changes[drawn]
            decided.add(gate.decide(changes, clusters))
            if math.isinf(gate.detectable):
                continue
            counts = caught.setdefault(gate.name, [0, 0])
            for index, times in enumerate((1, 2)):
                planted = _planted(random, gate, drawn, times * gate.detectable)
                counts[index] += gate.decide(changes + planted, clusters) == "fail"
        outcomes[next((o for o in ("fail", "no verdict") if o in decided), "pass")] += 1
    return ErrorRates(
        runs=runs,
        outcomes=outcomes,
        caught={name: (at_size, at_twice) for name, (at_size, at_twice) in caught.items()},
    )


def _left_out(baseline: Baseline) -> list[list[_Gate]]:
    """Take for each rerun that was drawn its gates, with what the others say of them."""
    settings = []
    own = own_changes(baseline)
    for left_out in baseline.reruns:
        if not left_out.drawn:
            continue
        others = [rerun for rerun in baseline.reruns if rerun is not left_out]
        gates = [
            gate
            for name in baseline.tolerances
            if name in left_out.samples and name in own
            if (gate := _gate(baseline, name, own[name], left_out, others)) is not None
        ]
        if gates:
            settings.append(gates)
    return settings


def _gate(
    baseline: Baseline, name: str, own: Change, left_out: Rerun, others: Sequence[Rerun]
) -> _Gate | None:
    """Take what the other reruns say of a gate; None where they are too few."""
    noise = noise_of(name, own, others)
    if noise is None:
        return None
    gates = gates_of(baseline.tolerances)
    allowed = baseline.tolerances[name]
    value = noise.tolerance(gates) if allowed.reason == OWN_REASON else allowed.value
    tolerances = {**baseline.tolerances, name: Tolerance(value=value, reason="")}
    size = detectable_of(replace(baseline, tolerances=tolerances), name, own, noise)
    assert size is not None
    return _Gate(
        name=name,
        changes=np.asarray(left_out.samples[name]),
        own=own,
        tolerance=value,
        detectable=size,
        gates=gates,
    )


def _resampled(
    random: np.random.Generator, clusters: Sequence[Hashable] | None, count: int
) -> tuple[NDArray[np.int64], list[int] | None]:
    """Draw samples of clusters with replacement, and number the clusters that they make."""
    if clusters is None:
        return random.integers(count, size=count), None
    members: dict[Hashable, list[int]] = {}
    for index, label in enumerate(clusters):
        members.setdefault(label, []).append(index)
    every = list(members.values())
    chosen = [every[k] for k in random.integers(len(every), size=len(every))]
    labels = [number for number, cluster in enumerate(chosen) for _ in cluster]
    return np.asarray([index for cluster in chosen for index in cluster]), labels


def _planted(
    random: np.random.Generator, gate: _Gate, drawn: NDArray[np.int64], size: float
) -> _Floats:
    """Make each sample that was drawn worse, by this size on average."""
    if gate.own.flips:
        return (random.random(len(drawn)) < size).astype(np.float64)
    if gate.own.shares is None:
        return np.full(len(drawn), size)
    return size * np.asarray(gate.own.shares)[drawn]


def table(baselines: Sequence[Path]) -> str:
    """Draw a Markdown table of the rates of every baseline."""
    heads = ["baseline", "gate", "tolerance", "detected from"]
    heads += ["null runs failed", "no verdict", "caught at that size", "at twice that"]
    lines = [heads]
    for path in baselines:
        baseline = read(path)
        rates = null_runs(baseline)
        if rates is None:
            lines.append([path.stem, "no calibration, nothing was drawn", *[""] * 6])
            continue
        first = [path.stem, str(rates.outcomes["fail"]), str(rates.outcomes["no verdict"])]
        for name, own in own_changes(baseline).items():
            size = detectable_of(baseline, name, own, noise_of(name, own, baseline.reruns))
            if size is None or name not in rates.caught:
                continue
            allowed = shown(name, baseline.tolerances[name].value, written=True)
            cells = [name, allowed, shown(name, size)]
            caught = [f"{100 * count / rates.runs:.1f} %" for count in rates.caught[name]]
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
