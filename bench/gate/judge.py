"""A measurement is judged gate by gate: is the change within the baseline's tolerance?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.gate.baseline import Baseline, Pair
from bench.gate.changes import SPEED, Change, changes
from bench.gate.key import differing_parts, key_of
from bench.gate.noise import gates_of
from bench.records.record import Record
from bench.stats import tolerance
from bench.stats.tolerance import Decision


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict on one gate is a pass, a failure or neither."""

    name: str
    """It names the gate."""
    decision: Decision | None
    """It is None where nothing could be compared."""
    why: str = ""
    """It says why nothing could be."""

    @property
    def outcome(self) -> tolerance.Outcome:
        """Say whether the gate passes, fails, or has no verdict."""
        return "no verdict" if self.decision is None else self.decision.outcome


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A judgement has the verdict on every gate of one baseline."""

    baseline: Baseline
    path: Path
    verdicts: tuple[Verdict, ...]
    paired: bool = True
    """There were unquantized models: what quantization costs was compared."""
    differing: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """These parts of the key differ: here is what the baseline has, and what was measured."""
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> tolerance.Outcome:
        """Give the outcome of all gates: a failure fails, else one with no verdict leaves none."""
        outcomes = {verdict.outcome for verdict in self.verdicts}
        if self.differing or not outcomes:
            return "no verdict"
        return next((o for o in ("fail", "no verdict") if o in outcomes), "pass")


def judge(baseline: Baseline, path: Path, now: Pair, declared: Mapping[str, Any]) -> Judgement:
    """Decide every gate that the baseline has a tolerance for.

    Args:
        baseline: as it was read.
        path: where it lies, for messages.
        now: the unquantized model (None: there is none) and the quantized one, measured now.
        declared: how the quantized one was made; see `bench.gate.key.declared_of`.
    """
    if differ := _differing_key(baseline, now, declared):
        return undecided(baseline, path, differing=differ)
    # A quantized model alone is held to the quantized one alone.
    before = None if now[0] is None else baseline.unquantized
    compared = changes((before, baseline.quantized), now)
    if _timed_on(baseline.quantized) != _timed_on(now[1]) and SPEED in compared:
        compared[SPEED] = "measured on other hardware or versions than the baseline; see below"
    gates = gates_of(baseline.tolerances)
    return Judgement(
        baseline=baseline,
        path=path,
        verdicts=tuple(
            _verdict(
                name,
                compared.get(name, f"there is no {name} to compare"),
                allowed=allowed.value,
                gates=gates,
            )
            for name, allowed in baseline.tolerances.items()
        ),
        paired=before is not None,
        warnings=(*_moved(before, now[0]), *_warnings(baseline.quantized, now[1])),
    )


def judge_made(before: Baseline, path: Path, made: Baseline) -> Judgement:
    """Hold a baseline's own measurement to another, or to itself for its table."""
    return judge(before, path, made.pair, made.declared)


def undecided(
    baseline: Baseline,
    path: Path,
    *,
    why: str = "",
    differing: Mapping[str, tuple[Any, Any]] | None = None,
) -> Judgement:
    """Leave every gate without a verdict: because of ``why``, or of these parts of the key."""
    if differing:
        why = f"the key differs: {', '.join(differing)}"
    return Judgement(
        baseline=baseline,
        path=path,
        verdicts=tuple(Verdict(name=n, decision=None, why=why) for n in baseline.tolerances),
        differing=dict(differing or {}),
    )


def _differing_key(
    baseline: Baseline, now: Pair, declared: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    measured, wanted = key_of(now[1], declared), baseline.key
    # What was measured besides, a comparison's other suites, is nobody's concern here.
    measured = {k: v for k, v in measured.items() if k in wanted or not k.startswith("suite ")}
    if now[0] is None:
        for key in (wanted, measured):
            key.pop("suite divergence", None)  # a model alone has none: that gate says so
    return differing_parts(wanted, measured)


def _verdict(name: str, change: Change | str, *, allowed: float, gates: int) -> Verdict:
    if isinstance(change, str):
        return Verdict(name=name, decision=None, why=change)
    if not change.exact:
        decision = tolerance.decide(change.values, change.clusters, tolerance=allowed, gates=gates)
        return Verdict(name=name, decision=decision)
    (value,) = change.values
    return Verdict(
        name=name,
        decision=Decision(
            outcome="pass" if value <= allowed else "fail",
            change=value,
            low=value,
            high=value,
            tolerance=allowed,
            units=1,
            units_needed=None,
        ),
    )


_HARDWARE = {"CPU": "cpu", "threads": "threads", "GPU": "gpu", "platform": "platform"}


def _timed_on(record: Record) -> dict[str, Any]:
    """Say by name what seconds depend on: hardware, and versions of libraries."""
    where = record.environment
    hardware = {name: getattr(where, field) for name, field in _HARDWARE.items()}
    return {**hardware, "Python": where.python, **where.packages}


def _warnings(before: Record, now: Record) -> list[str]:
    """Say what differs beneath the declaration."""
    return [
        f"{name}: the baseline's {was}, now {there}"
        for name, (was, there) in differing_parts(_timed_on(before), _timed_on(now)).items()
    ]


def _moved(before: Record | None, now: Record | None) -> list[str]:
    """Say where the unquantized model itself is another than it was; which is not gated."""
    if before is None or now is None:
        return []
    moved = []
    for name, suite in before.cell.suites.items():
        was, there = (record.metrics.get(suite.metric) for record in (before, now))
        if name == SPEED or was is None or there is None:
            continue
        if not math.isclose(was.value, there.value, rel_tol=1e-4):
            told = f"was {was.value:.5g}, now {there.value:.5g}"
            moved.append(f"{name} of the unquantized model: {told}")
    return moved
