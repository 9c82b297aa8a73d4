"""What is refused before anything is loaded, and what every kind of suite says of itself."""

from __future__ import annotations

import pytest

from bench.comparison import estimate
from bench.comparison.progress import quiet
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from bench.comparison.suites.build import build_suites, text_of


def test_every_suite_states_its_seconds_or_that_they_are_not_known_before(
    request_for: Request,
) -> None:
    request = request_for.but(
        suites=("perplexity", "throughput", "json"), prompt_lengths=(16,), limit=1
    )
    loaded = open_model(request)
    suites = build_suites(request, loaded, quiet())
    pace = estimate.Pace(
        forward_tokens_per_s=100.0, flop_per_s=1e9, rounded_per_s=1e6, steps_per_s=1e3
    )
    seconds = {name: suite.seconds(loaded, pace) for suite in suites for name in suite.protocols}
    assert list(seconds) == ["perplexity", "throughput", "json"]
    windows = suites[0].protocols["perplexity"].windows
    assert seconds["perplexity"] == pytest.approx(windows * 32 / 100, rel=0.01)
    for suite in suites:
        assert (suite.time_note is None) == (suite.seconds(loaded, pace) is not None)
    text = text_of(suites)
    assert text is not None
    assert text.name == "evaluation"
    assert text_of(suites[1:]) is None
