"""What is refused before anything is loaded, and which cells run which suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.comparison import measure
from bench.comparison.compare import begin, compare
from bench.comparison.request import Request
from quantcore.errors import InputError


@pytest.mark.parametrize("other", ["perplexity", "divergence", "throughput"])
def test_tasks_for_some_schemes_leave_the_others_what_is_no_task(other: str) -> None:
    request = Request(
        schemes=("int4-g32", "int3-g64"), suites=(other, "json"), tasks_schemes=("int3-g64",)
    )
    measure.check(request)
    for alone in (replace(request, suites=("json",)), replace(request, suites=(), tasks=("a",))):
        with pytest.raises(InputError, match="leaves nothing to measure at int4-g32"):
            measure.check(alone)


def test_more_windows_at_once_than_there_are_are_all_of_them(
    request_for: Request, tmp_path: Path
) -> None:
    request = replace(request_for, methods=(), schemes=(), windows=3, batch_size=2**64)
    outcome = compare(request, out=tmp_path / "run")
    assert not outcome.failed


def test_speed_is_measured_where_tasks_are_not(request_for: Request, tmp_path: Path) -> None:
    request = replace(
        request_for,
        methods=("rtn",),
        suites=("throughput", "json"),
        tasks_schemes=("int3-g64",),
        prompt_lengths=(16,),
        backend="dequant",
        limit=1,
    )
    with begin(request, out=tmp_path / "run") as comparison:
        assert [set(cell.suites) for cell, _, _ in comparison.plan] == [
            {"throughput", "json"},
            {"throughput"},
            {"throughput", "json"},
        ]
