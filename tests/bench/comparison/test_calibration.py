"""Sequences that a model writes itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.comparison.calibration import sample_from
from bench.comparison.inputs import open_model
from bench.comparison.request import Request
from suites.kv_cache import Forward


def test_sampling_from_a_model_without_a_cache_reads_what_it_wrote(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = open_model(request_for)
    told: list[int] = []
    cached = sample_from(loaded, samples=3, seqlen=12, seed=0, done=told.append)
    assert sum(told) == 3 * 11
    forward = Forward.__call__

    def without(self: Forward, read: torch.Tensor, **options: Any) -> tuple[torch.Tensor, None]:
        return forward(self, read, **options)[0], None

    monkeypatch.setattr(Forward, "__call__", without)
    assert torch.equal(sample_from(loaded, samples=3, seqlen=12, seed=0), cached)
