"""Quantize by GPTQModel's GPTQ, INT4-g128, with its defaults (symmetric, activation groups).

It packs its codes as part of quantizing; that is timed too, for it cannot be told apart. Moving
finished layers to the disk and back, its default, is switched off.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

PACKAGES = ("gptqmodel", "torch", "transformers")


def load(folder: str, variant: str) -> Any:
    """Load the model inside GPTQModel's wrapper."""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # with fewer it refuses two cores
    import torch
    from gptqmodel import GPTQModel, QuantizeConfig

    config = QuantizeConfig(bits=4, group_size=128, device="cpu", offload_to_disk=False)
    return GPTQModel.load(folder, config, dtype=torch.float32)


def quantize(model: Any, tokens: Any, variant: str) -> Any:
    """Run GPTQ on the sequences as they are."""
    import torch

    model.quantize(
        [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in tokens],
        batch_size=1,
    )
    return model


def evaluable(model: Any, original: str) -> Any:
    """Return the original in float32 with the weights that the checkpoint decodes to.

    The quantized model cannot be run where it is (its zero points are as stored, one too low to
    decode), nor be read back to run in float32.
    """
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        quantized = GPTQModel.load(folder, device="cpu", backend=BACKEND.TORCH).model
    plain = AutoModelForCausalLM.from_pretrained(original, dtype=torch.float32)
    with torch.no_grad():
        for name, module in quantized.named_modules():
            if hasattr(module, "dequantize_weight"):
                served = module.dequantize_weight().t()
                plain.get_submodule(name).weight.copy_(served)
    return plain
