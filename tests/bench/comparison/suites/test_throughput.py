"""Speed: which cells have it."""

from __future__ import annotations

from pathlib import Path

from bench.comparison.compare import begin
from bench.comparison.request import Request


def test_speed_is_measured_where_tasks_are_not(request_for: Request, tmp_path: Path) -> None:
    request = request_for.but(
        methods=("rtn",),
        suites=("throughput", "json"),
        tasks_schemes=("int3-g64",),
        prompt_lengths=(16,),
        backend="dequant",
        limit=1,
    )
    with begin(request, out=tmp_path / "run") as comparison:
        assert [set(planned.cell.suites) for planned in comparison.plan] == [
            {"throughput", "json"},
            {"throughput"},
            {"throughput", "json"},
        ]
