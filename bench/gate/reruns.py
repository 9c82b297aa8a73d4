"""A baseline is measured again with all that may vary while everything declared is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from bench.comparison.request import Request
from bench.gate.baseline import Rerun
from bench.gate.changes import SPEED, Change, changes
from bench.gate.measure import Measured
from bench.records.record import Record

SEEDS = 5
"""A baseline takes so many calibration seeds besides its own, and is timed again so often."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """A variation is declared alike and still gives other numbers."""

    what: str
    """It is named so in the baseline."""
    request: Request
    drawn: bool = False
    """It is one draw of many; see `bench.gate.baseline.Rerun`."""
    threads: int | None = None
    """It runs by so many; None: by as many as are set."""
    unquantized: Record | None = None
    """This record serves where the variation does not reach the unquantized model."""
    gates: frozenset[str] | None = None
    """It says something of these; None: of all."""


def variations(first: Measured, seeds: int) -> Iterator[Variation]:
    """Plan the reruns of a baseline.

    Args:
        first: its own measurement.
        seeds: calibration seeds besides its own.
    """
    request = first.request
    quality = tuple(name for name in request.suites if name != SPEED)
    if SPEED in request.suites:  # seconds vary by themselves, whatever the weights are
        for number in range(1, SEEDS + 1):
            yield Variation(
                what=f"timed again, {number}",
                drawn=True,
                request=request.but(suites=(SPEED,), tasks=()),
                gates=frozenset([SPEED]),
            )
    if not quality and not request.tasks.names:
        return
    request = request.but(suites=quality, throughput_backends=(), price_per_hour=None)
    if first.declared["calibration"] is not None and request.methods:
        for number in range(1, seeds + 1):
            yield Variation(
                what=f"calibration seed {number}",
                drawn=True,
                request=request.but(calibration_seed=request.seed + number),
                unquantized=first.unquantized,
            )
    yield Variation(what="batches of 1", request=request.but(batch_size=1))
    other = 1 if torch.get_num_threads() > 1 else 2
    yield Variation(
        what=f"{other} thread{'s' if other > 1 else ''}", request=request, threads=other
    )
    if request.methods and request.backend is None:
        yield Variation(
            what="backend auto",
            request=request.but(backend="auto"),
            unquantized=first.unquantized,
        )


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let PyTorch run by so many threads; None: by as many as are set."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rerun_of(variation: Variation, first: Measured, second: Measured) -> Rerun:
    """Say gate by gate what a variation changed.

    Args:
        variation: what was varied.
        first: the baseline's own measurement.
        second: the variation's.
    """
    gates = variation.gates
    return Rerun(
        what=variation.what,
        drawn=variation.drawn,
        samples={
            name: list(change.values)
            for name, change in changes(first.pair, second.pair).items()
            if isinstance(change, Change) and not change.exact and (gates is None or name in gates)
        },
    )
