"""What is measured is what was declared, on the spot and in folders."""

from __future__ import annotations

import copy
from pathlib import Path

import datasets.config
import huggingface_hub.constants
import pytest

from bench.comparison.quantize import quantize
from bench.comparison.request import Request
from bench.gate.kept_request import kept
from bench.gate.measure import opened
from quantcore import hub
from quantcore.checkpoint import sha256_of, weight_files


def test_what_a_default_chose_is_asked_for_by_name(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    hub.unreachable.cache_clear()
    request = asked.but(text=None, calibration=None, windows=4, calibration_samples=2)
    with opened(request) as model:
        found = model.measure("awq", "int4-g32").request
    hub.unreachable.cache_clear()
    assert (found.text.name, found.calibration.name) == ("embedded", "self")
    held = kept(found, None)
    assert (held["text"], held["calibration"]) == ("embedded", "self")


@pytest.mark.parametrize("beside", [True, False])
def test_what_a_folder_declares_is_the_same_once_it_is_measured(
    asked: Request, tmp_path: Path, beside: bool
) -> None:
    folder = quantize(asked, method="rtn", scheme="int4-g32", out=tmp_path / "folder")
    request = Request.of(
        model=str(folder), methods=(), schemes=(), text=asked.text.name, seqlen=32, windows=2
    )
    source = asked.model if beside else None
    with opened(request, source=source) as model:
        before = copy.deepcopy(model.declared(None, None))
        assert model.measure(None, None).declared == before
        assert model.declared(None, None) == before
    # The folder's manifest names the model that it was made of.
    assert before["source"] == sha256_of(weight_files(Path(asked.model)))
