"""Everything that may vary is measured again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.comparison.request import Request
from bench.gate.baseline import Baseline, read, write
from bench.gate.make import make
from bench.gate.run import gate


def test_it_holds_reruns_of_everything_that_may_vary(made: Baseline) -> None:
    names = [one.what for one in made.reruns]
    assert names[:5] == [f"calibration seed {n}" for n in range(1, 6)]
    assert names[5] == "batches of 1"
    assert names[6] in ("1 thread", "2 threads")
    assert names[7:] == ["backend auto"]
    assert [one.drawn for one in made.reruns] == [True] * 5 + [False] * 3
    windows = made.quantized.cell.suites["perplexity"].windows
    for one in made.reruns:
        assert set(one.samples) == {"perplexity", "divergence"}
        assert {len(samples) for samples in one.samples.values()} == {windows}
    # Another calibration gives another model; another batch gives the same to rounding.
    assert all(np.any(one.samples["divergence"]) for one in made.reruns[:5])
    for one in made.reruns[5:]:
        assert np.abs(one.samples["perplexity"]).max() < 1e-4


@pytest.mark.slow
def test_speed_is_timed_again(asked: Request, tmp_path: Path) -> None:
    request = asked.but(
        methods=("rtn",),
        calibration=None,
        suites=("throughput",),
        prompt_lengths=(16,),
        new_tokens=4,
        rounds=3,
        text=None,
        seqlen=None,
    )
    made = make(request, {})
    assert [one.what for one in made.reruns] == [f"timed again, {n}" for n in range(1, 6)]
    assert set(made.tolerances) == {"throughput", "size"}
    path = tmp_path / "b.json"
    write(made, path, force=False)
    assert read(path).reruns == made.reruns
    (result,) = gate([path])
    assert {v.name for v in result.verdicts} == {"throughput", "size"}
    assert result.verdicts[0].decision is not None
