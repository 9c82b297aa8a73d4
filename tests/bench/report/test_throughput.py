"""The table of throughput: what is made of the samples."""

from __future__ import annotations

import math

import pytest

from bench.records.metrics import TimedRun
from bench.records.record import Record
from bench.report.grid import markdown
from bench.report.throughput import grid, long_table, speeds
from suites.throughput import METRIC
from tests.bench.made import cell, record, run, throughput, timings


def runs(speed_up: float, first: float) -> list[TimedRun]:
    return [run(2, 8, n, [0.1 * (1 + n / 10) / speed_up] * 2, first) for n in range(4)]


def timed(speed_up: float | None) -> Record:
    """The record of a model that was timed, or of the unquantized one."""
    if speed_up is None:
        metric = timings(runs(1.0, 0.5), {})
        of = cell(suites={"throughput": throughput(metric)})
    else:
        metric = timings(runs(1.0, 0.5), {"auto": runs(speed_up, 0.25)})
        of = cell("awq", "int4-g128", suites={"throughput": throughput(metric)})
    return record(of, {METRIC: metric})


def test_ratios_are_of_neighbours_and_speeds_of_the_whole_batch() -> None:
    base, quantized = speeds([timed(None), timed(2.5)])
    assert base.decode_ratio is None
    assert base.decode_tokens_per_s == pytest.approx((2 / 0.11 + 2 / 0.12) / 2)
    assert base.prefill_tokens_per_s == pytest.approx(32)
    assert quantized.decode_ratio is not None
    assert quantized.decode_ratio.estimate == pytest.approx(2.5)
    assert quantized.prefill_ratio is not None
    assert quantized.prefill_ratio.estimate == pytest.approx(2.0)


def test_the_table_says_everything_and_the_price_only_if_given() -> None:
    found = speeds([timed(None), timed(2.5)])
    plain = markdown(grid(found))
    for part in (
        "AWQ INT4-g128, cpu",
        "x2.50",
        "weights 1.0 MiB",
        "peak 2.0 MiB host",
        "x4.00",
        "batch 2",
        "prompt 8",
        "a processor",
    ):
        assert part in plain, part
    assert "per million" not in plain
    priced = long_table(found, 3.6)
    expected = 3.6 / 3600 / ((2 / 0.11 + 2 / 0.12) / 2) * 1e6
    assert priced["modelled_cost_per_million_tokens"][0] == pytest.approx(expected)
    assert math.isfinite(priced["decode_ratio"][1])
    assert "per million" in markdown(grid(found, 3.6))
