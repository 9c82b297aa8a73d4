"""A comparison announces what will be done, and what it will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from bench.comparison import estimate
from bench.comparison.cells import PlannedCell
from bench.comparison.estimate import Pace
from bench.comparison.progress import Reporter
from bench.comparison.set_up import Setup
from bench.records.record import Record
from bench.report import quantities
from quantcore.calibration import stats_bytes


def announce(
    setup: Setup, pending: Sequence[PlannedCell], say: Reporter, *, cache: Path | None
) -> None:
    """Say what will be measured, how long it will take and how much memory.

    Args:
        setup: the comparison.
        pending: its cells that have no whole record yet.
        say: who shows it.
        cache: where calibration statistics go; None: they stay in memory.
    """
    pace = estimate.measure_pace(setup.loaded, _trial_batch(setup))
    seconds = _seconds(setup, pending, pace)
    loaded = setup.loaded
    say.say(
        f"{loaded.name}: {loaded.model.num_parameters() / 1e6:,.1f} M parameters in "
        f"{str(loaded.dtype).removeprefix('torch.')} on {loaded.device.type}",
        style="bold",
    )
    for suite in setup.suites:
        say.say(f"  evaluation   {suite.about}")
    if (calibration := setup.calibration) is not None:
        samples, seqlen = calibration.tokens.shape
        say.say(
            f"  calibration  {calibration.name}: {samples} x {seqlen} tokens, {calibration.source}"
        )
    say.say(f"  time         {_time(setup, seconds)}")
    say.say(f"  memory       {_memory(setup, cache)}")


def announce_tasks(record: Record, pending: Sequence[PlannedCell], say: Reporter) -> None:
    """Say what tasks will take, which is known once one model has answered them.

    Args:
        record: the first cell's.
        pending: the cells to come.
        say: who shows it.
    """
    seconds = {name: answers.seconds for name, answers in record.answers.items()}
    more = sum(seconds.get(name, 0.0) for planned in pending for name in planned.cell.suites)
    if more:
        say.say(f"  tasks        {quantities.duration(more)} more at the first cell's pace")


def _trial_batch(setup: Setup) -> torch.Tensor:
    """Give a batch as evaluation runs it, int64 [batch, tokens], to measure the pace with."""
    for suite in setup.suites:
        if (batch := suite.trial_batch) is not None:
            return batch
    return torch.zeros(8, min(256, setup.loaded.context or 256), dtype=torch.int64)


def _seconds(setup: Setup, pending: Sequence[PlannedCell], pace: Pace) -> dict[str, float]:
    """Estimate each kind of work over all cells."""
    tokens = 0 if setup.calibration is None else setup.calibration.tokens.numel()
    quantized = [(cell.method, cell.scheme) for cell in pending if cell.method and cell.scheme]
    shared = any(method.calibration == "shared" for method, _ in quantized)
    quantizing = (
        estimate.quantization_s(setup.structure, method, scheme, pace, calibration_tokens=tokens)
        for method, scheme in quantized
    )
    evaluating = (suite.seconds(setup.loaded, pace) or 0.0 for suite in setup.suites)
    return {
        "calibrate": estimate.calibration_s(setup.structure, tokens, pace) if shared else 0.0,
        "quantize": sum(quantizing),
        "evaluate": len(pending) * sum(evaluating),
    }


def _time(setup: Setup, seconds: dict[str, float]) -> str:
    detail = ", ".join(f"{name} {quantities.duration(s)}" for name, s in seconds.items() if s)
    total = quantities.duration(sum(seconds.values()))
    notes = [suite.time_note for suite in reversed(setup.suites)]  # what comes on top, last
    parts = [f"about {total} ({detail})" if detail else None, *notes]
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _memory(setup: Setup, cache: Path | None) -> str:
    weights = sum(p.numel() * p.element_size() for p in setup.loaded.model.parameters())
    statistics = 0
    if setup.calibration is not None:
        statistics = stats_bytes(setup.structure, on_disk=cache is not None)
    memory = 2 * weights + (0 if cache else statistics)
    kept = "records only on disk"
    if cache:
        kept = f"{quantities.size(statistics)} of statistics on disk"
    return f"about {quantities.size(memory)} for weights and statistics; {kept}"
