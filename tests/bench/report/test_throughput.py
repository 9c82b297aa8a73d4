"""The table of throughput: what is made of the samples."""

from __future__ import annotations

import math

import pytest

from bench.records.record import Cell, Record
from bench.report.grid import markdown
from bench.report.throughput import grid, long_table, speeds
from suites.throughput import METRIC


def run(number: int, step: float, first: float = 0.5) -> dict[str, object]:
    return {
        "batch_size": 2,
        "prompt_tokens": 8,
        "round": number,
        "first_token_s": first,
        "step_s": [step, step],
    }


def model_of(runs: list[dict[str, object]], read: int) -> dict[str, object]:
    return {
        "linears": {} if read == 1000 else {"cpu": 7},
        "weight_bytes": 2**20,
        "read_bytes": read,
        "peak_bytes": {"host": 2**21},
        "joules_per_token": None,
        "notices": [],
        "runs": runs,
    }


def record(speed_up: float | None) -> Record:
    base = [run(n, 0.1 * (1 + n / 10)) for n in range(4)]
    runs = base
    if speed_up is not None:
        runs = [run(n, 0.1 * (1 + n / 10) / speed_up, 0.25) for n in range(4)]
    return Record(
        cell=Cell(
            model="0" * 64,
            tokenizer="0" * 64,
            method=None if speed_up is None else "awq",
            method_settings={},
            scheme=None if speed_up is None else "int4-g128",
            exclude=(),
            calibration=None,
            suites={"throughput": {"metric": METRIC}},
            dtype="float32",
            device="cpu",
            seed=0,
        ),
        status="done",
        model_name="m",
        parameters=1,
        stored_bytes=1000,
        metrics={
            METRIC: {
                "value": 20.0,
                "backends": {} if speed_up is None else {"auto": model_of(runs, 250)},
                "unquantized": model_of(base, 1000),
                "weights": 500,
                "rates": {"bytes_per_s": 1000.0, "operations_per_s": 1e6},
            }
        },
        environment={"cpu": "a processor", "threads": 2, "gpu": None},
    )


def test_ratios_are_of_neighbours_and_speeds_of_the_whole_batch() -> None:
    base, quantized = speeds([record(None), record(2.5)])
    assert base.decode_ratio is None
    assert base.decode_tokens_per_s == pytest.approx((2 / 0.11 + 2 / 0.12) / 2)
    assert base.prefill_tokens_per_s == pytest.approx(32)
    assert quantized.decode_ratio is not None
    assert quantized.decode_ratio.estimate == pytest.approx(2.5)
    assert quantized.prefill_ratio is not None
    assert quantized.prefill_ratio.estimate == pytest.approx(2.0)


def test_the_table_says_everything_and_the_price_only_if_given() -> None:
    found = speeds([record(None), record(2.5)])
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
