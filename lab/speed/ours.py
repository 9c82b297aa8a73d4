"""Run this project behind the interface that `lab/speed/peers/run.py` gives every quantizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bench import registry
from quantcore.calibration import StatsStore, calibrate
from quantcore.discovery import discover
from quantcore.quantize import quantize_model
from quantcore.scheme import QuantScheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKAGES = ("torch", "transformers")
_BATCH_TOKENS = 4096  # as `bench.comparison.workbench.Calibrator` does on a CPU


def load(folder: str, variant: str) -> PreTrainedModel:
    """Load the model in float32, and import the method, so that its import is not timed."""
    from transformers import AutoModelForCausalLM

    registry.method(variant)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def quantize(model: PreTrainedModel, tokens: Tensor, variant: str) -> PreTrainedModel:
    """Read the structure, calibrate if the method asks for it, quantize to INT4-g128."""
    method = registry.method(variant)
    structure = discover(model)
    store = None
    if method.calibration == "shared":
        store = StatsStore()
        calibrate(
            model, structure, tokens, store, batch_size=max(1, _BATCH_TOKENS // tokens.shape[1])
        )
    quantize_model(structure, method, QuantScheme.parse("int4-g128"), stats=store)
    return model
