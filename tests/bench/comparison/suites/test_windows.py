"""Perplexity and divergence: batches, and what the unquantized model leaves for the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.comparison.compare import compare
from bench.comparison.progress import quiet
from bench.comparison.request import Request
from bench.comparison.set_up import open_model
from bench.comparison.suites.suite import Subject, Unquantized
from bench.comparison.suites.windows import WindowsSuite


def test_more_windows_at_once_than_there_are_are_all_of_them(
    request_for: Request, tmp_path: Path
) -> None:
    request = request_for.but(methods=(), schemes=(), windows=3, batch_size=2**64)
    outcome = compare(request, out=tmp_path / "run")
    assert not outcome.failed


def test_divergence_is_from_the_model_that_was_the_unquantized_one(request_for: Request) -> None:
    """Who measures first decides nothing: what the unquantized model left is passed on."""
    request = request_for.but(suites=("divergence",), windows=2)
    loaded, say = open_model(request), quiet()
    (suite,) = WindowsSuite.build(request, loaded, say)
    metric = suite.protocols["divergence"].metric
    kept = Unquantized()
    itself = Subject(label="float32", loaded=loaded, is_unquantized=True, unquantized=kept)
    other = replace(itself, label="other", is_unquantized=False)
    with pytest.raises(ValueError, match="needs the unquantized model's hidden states"):
        suite.measure(other, say, ["divergence"])
    suite.prepare(itself, say)
    loaded.model.lm_head.weight.data.mul_(1.5)
    assert suite.measure(itself, say, ["divergence"])[metric].value == 0.0
    assert suite.measure(other, say, ["divergence"])[metric].value == 0.0  # the head is shared
    next(loaded.model.model.parameters()).data.mul_(1.5)
    assert suite.measure(other, say, ["divergence"])[metric].value > 0.0
    # Another suite of the same windows compares with it as well.
    (again,) = WindowsSuite.build(request, loaded, say)
    assert again.measure(other, say, ["divergence"])[metric].value > 0.0
