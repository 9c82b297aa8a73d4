"""A peer that changes nothing, for the tests of `lab.speed.reference`."""

from __future__ import annotations

import time
from typing import Any

PACKAGES = ("torch",)


def load(folder: str, variant: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    assert variant == "half"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def quantize(model: Any, tokens: Any, variant: str) -> Any:
    assert tuple(tokens.shape) == (2, 32)
    time.sleep(0.01)
    return model
