"""Every family from end to end: calibrated, quantized, saved, loaded by Transformers, evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from awq_impl.method import AWQ
from bench.cli.main import main
from quantcore.calibration import BlockWalk
from quantcore.discovery import PROVEN_FAMILIES, discover
from quantcore.quantize import quantize_model
from quantcore.scheme import QuantScheme
from suites.perplexity import window_nll

TOKENS = torch.arange(8 * 32).view(8, 32) * 13 % 160


@torch.no_grad()
def test_a_saved_family_is_the_one_that_was_measured(
    family_model: PreTrainedModel, tmp_path: Path
) -> None:
    structure = discover(family_model)
    walk = BlockWalk(family_model, structure, TOKENS, batch_size=3)  # the last batch is smaller
    quantize_model(structure, AWQ(clip=True), QuantScheme.parse("int4-g16"), walk=walk)
    logits = family_model(TOKENS).logits
    family_model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(loaded(TOKENS).logits, logits)
    whole = cross_entropy(logits[:, :-1].transpose(1, 2), TOKENS[:, 1:], reduction="none").mean(1)
    assert window_nll(loaded, TOKENS, batch_size=3) == pytest.approx(whole.tolist(), abs=1e-5)


def test_list_names_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for model_type in PROVEN_FAMILIES:
        assert f"  {model_type} " in printed
    assert "E[x^2]" in printed  # brackets are text, not markup
