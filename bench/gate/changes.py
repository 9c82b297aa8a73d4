"""The change of every gate is what quantization costs now, less what it cost in the baseline.

What quantization costs is quantized minus unquantized, both measured at the same time. A change of
a library that moves both alike is no regression of the quantization, and one that moves the
quantized model alone is. Where there is no unquantized model the outcomes themselves are gated.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench.gate.arithmetic import ARITHMETIC
from bench.gate.baseline import Baseline, Pair
from bench.records.metrics import Answers, Columns, Divergence, Perplexity, Timings
from bench.records.record import Record
from bench.stats import tolerance
from bench.stats.tolerance import Arithmetic
from quantcore.errors import setting_name

_Metric = TypeVar("_Metric", Perplexity, Divergence, Answers, Timings)

SPEED = "throughput"
"""This gate is on seconds, which other hardware or versions change; no other is."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change holds the samples of one gate, positive where it got worse."""

    values: Sequence[float]
    clusters: Sequence[Hashable] | None = None
    flips: bool = False
    """The samples are items that are right or wrong."""
    most: float = math.inf
    """The mean can become this at most: of items, the share that the quantized model has right."""
    exact: bool = False
    """There is nothing to infer: the change is one figure."""
    shares: Sequence[float] | None = None
    """Each sample has this share in what quantization costs, 1 on average; None: all alike."""
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    """Another machine changes so much by rounding."""

    @property
    def uneven(self) -> float:
        """Give the standard error of the mean share; see `bench.stats.tolerance.detectable`."""
        return 0.0 if self.shares is None else tolerance.spread(self.shares, None).error


class _Missing(Exception):
    """A gate has nothing to compare, for this reason."""


def changes(base: Pair, now: Pair) -> dict[str, Change | str]:
    """Compare every gate; one that cannot be compared has the reason instead.

    Args:
        base: the baseline's records.
        now: those of what was measured.
    """
    by_gate: dict[str, Change | str] = {}
    for name in base[1].cell.suites:
        try:
            if name == SPEED:
                by_gate[name] = _speed(base[1], now[1])
            elif name in ("perplexity", "divergence"):
                by_gate[name] = _windows(name, base, now)
            else:
                by_gate[name] = _items(name, base, now)
        except _Missing as missing:
            by_gate[name] = str(missing)
    by_gate["size"] = _size(base[1], now[1])
    return by_gate


def own_changes(baseline: Baseline) -> dict[str, Change]:
    """Compare a baseline with itself: every change is zeros, and says how samples cluster."""
    compared = changes(baseline.pair, baseline.pair)
    return {name: change for name, change in compared.items() if isinstance(change, Change)}


def _windows(suite: str, base: Pair, now: Pair) -> Change:
    """Compare nats per token by window: what the quantized model lost, or the divergence."""
    paired = base[0] is not None
    before = _window_costs(suite, base, "of the baseline", paired=paired)
    after = _window_costs(suite, now, "measured now", paired=paired)
    if len(before) != len(after):
        raise _Missing(f"{len(after)} windows where the baseline has {len(before)}")
    values = _finite([b - a for a, b in zip(before, after, strict=True)])
    mean = sum(_finite(before)) / len(before)
    return Change(
        values=values,
        shares=[cost / mean for cost in before] if mean > 0 else None,
        arithmetic=ARITHMETIC[base[1].cell.dtype][suite],
    )


def _window_costs(suite: str, pair: Pair, whose: str, *, paired: bool) -> list[float]:
    """Take what quantization costs each window, or the model's own nats where it stands alone."""
    unquantized, quantized = pair
    divergence = suite == "divergence"
    if divergence and quantized.divergence is None and unquantized is None:
        how = setting_name("source")
        raise _Missing(f"it takes the unquantized model: give it with {how}")
    if divergence:
        far = _measured(quantized.divergence, quantized, suite, f"the quantized model {whose}")
        return far.window_kl
    own = _measured(quantized.perplexity, quantized, suite, f"the quantized model {whose}")
    if not paired:
        return own.window_nll
    if unquantized is None:
        raise _Missing(f"there is no unquantized model {whose}")
    beside = _measured(unquantized.perplexity, unquantized, suite, f"the unquantized model {whose}")
    return [a - b for a, b in zip(own.window_nll, beside.window_nll, strict=True)]


def _measured(metric: _Metric | None, record: Record, suite: str, whose: str) -> _Metric:
    """Refuse a metric that is not there, and say why it is not."""
    if metric is not None:
        return metric
    if record.status == "failed":
        raise _Missing(f"{whose} was not measured: {record.error}")
    if reason := record.failures.get(suite):
        raise _Missing(f"{whose} could not be measured: {reason}")
    raise _Missing(f"{whose} has no {suite}")


def _items(suite: str, base: Pair, now: Pair) -> Change:
    """Compare outcomes by item: what the quantized model lost against the unquantized one."""
    paired = base[0] is not None
    held, before = _items_lost(suite, base, "of the baseline", paired=paired)
    again, after = _items_lost(suite, now, "measured now", paired=paired)
    if held.id != again.id:
        raise _Missing(f"the items of {suite} are not the baseline's")
    return Change(
        values=_finite([b - a for a, b in zip(before, after, strict=True)]),
        clusters=held.source,
        flips=True,
        most=sum(held.values) / len(held.values),
        arithmetic=ARITHMETIC[base[1].cell.dtype]["items"],
    )


def _items_lost(suite: str, pair: Pair, whose: str, *, paired: bool) -> tuple[Columns, list[float]]:
    """Take the quantized model's items, and what each lost; alone, its outcomes turned round."""
    unquantized, quantized = pair
    own = _columns(suite, quantized, f"the quantized model {whose}")
    if not paired:
        return own, [-value for value in own.values]
    if unquantized is None:
        raise _Missing(f"there is no unquantized model {whose}")
    beside = _columns(suite, unquantized, f"the unquantized model {whose}")
    if beside.id != own.id:
        raise _Missing(f"both models {whose} were asked other items")
    return own, [a - b for a, b in zip(beside.values, own.values, strict=True)]


def _columns(suite: str, record: Record, whose: str) -> Columns:
    answers = _measured(record.answers.get(suite), record, suite, whose)
    if answers.none_fits:
        raise _Missing(f"no prompt of {suite} fits the context")
    columns = answers.columns.valued()
    if not columns.values:
        raise _Missing(f"items of {suite} carry no value of their own")
    return columns


def _speed(base: Record, now: Record) -> Change:
    """Compare the logarithm of the decoding speed-up, round by round."""
    before = _speed_ups(base, "the baseline")
    after = _speed_ups(now, "the model measured now")
    if len(before) != len(after):
        raise _Missing(f"{len(after)} runs where the baseline has {len(before)}")
    return Change(values=_finite([a - b for a, b in zip(before, after, strict=True)]))


def _speed_ups(record: Record, whose: str) -> list[float]:
    """Take the logarithm of each run's speed over its neighbour's of the unquantized model."""
    timed = _measured(record.timings, record, SPEED, whose)
    if not timed.backends:
        raise _Missing(f"{whose} was timed on no backend")
    pairs = (
        zip(timed.first.of(case), timed.unquantized.of(case), strict=True) for case in timed.cases
    )
    return [
        math.log(run.decode_tokens_per_s / beside.decode_tokens_per_s)
        for rounds in pairs
        for run, beside in rounds
    ]


def _size(base: Record, now: Record) -> Change | str:
    if base.stored_bytes is None or now.stored_bytes is None:
        return "the size of the quantized model is not known"
    return Change(values=[now.stored_bytes / base.stored_bytes - 1], exact=True)


def _finite(values: list[float]) -> list[float]:
    if not values:
        raise _Missing("there are no samples")
    if not all(map(math.isfinite, values)):
        raise _Missing("a sample is NaN or infinite")
    return values
