"""What a comparison says before it begins."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from bench.comparison.compare import begin
from bench.comparison.progress import Reporter
from bench.comparison.request import Request


def test_what_is_measured_and_what_it_takes(request_for: Request, tmp_path: Path) -> None:
    request = request_for.but(
        methods=("awq",),
        suites=("perplexity", "throughput", "json"),
        prompt_lengths=(16,),
        limit=1,
    )
    said = io.StringIO()
    say = Reporter(Console(file=said, width=200))
    with begin(request, out=tmp_path / "run", reporter=say):
        pass
    lines = said.getvalue().splitlines()
    evaluated = [line.split()[1] for line in lines if line.startswith("  evaluation")]
    assert evaluated == ["evaluation_ppl_32:", "throughput:", "json_acc@2:"]
    (calibrated,) = [line for line in lines if line.startswith("  calibration")]
    assert "8 x 32 tokens" in calibrated
    (time,) = [line for line in lines if line.startswith("  time")]
    assert time.startswith("  time         about ")
    for part in ("(calibrate ", ", quantize ", ", evaluate "):
        assert part in time
    assert time.endswith(
        "; that of the tasks is known after the first cell; throughput comes on top, with a bar of "
        "its own"
    )
    (memory,) = [line for line in lines if line.startswith("  memory")]
    assert memory.endswith("for weights and statistics; records only on disk")
