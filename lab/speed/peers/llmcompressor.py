"""Quantize by llm-compressor's AWQ and GPTQ, INT4 in groups of 128, asymmetric, in float32.

GPTQ keeps its default column order (``static``). AWQ pins memory without asking whether there is
an accelerator and fails where there is none; pinning is switched off, nothing else is changed.
"""

from __future__ import annotations

from typing import Any

PACKAGES = ("llmcompressor", "compressed-tensors", "torch", "transformers")


def load(folder: str, variant: str) -> Any:
    """Load the model, and import all that quantizing will need."""
    import torch
    from datasets import Dataset  # noqa: F401
    from llmcompressor import oneshot  # noqa: F401
    from llmcompressor.pipelines.cache import IntermediatesCache
    from transformers import AutoModelForCausalLM

    modifier(variant)
    if hasattr(IntermediatesCache, "pin_memory"):
        IntermediatesCache.pin_memory = lambda *arguments, **options: None
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def modifier(variant: str) -> Any:
    """Return the recipe."""
    scheme = {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 4,
                "type": "int",
                "symmetric": False,
                "strategy": "group",
                "group_size": 128,
            },
        }
    }
    if variant == "awq":
        from llmcompressor.modifiers.awq import AWQModifier

        return AWQModifier(ignore=["lm_head"], config_groups=scheme)
    from llmcompressor.modifiers.quantization import GPTQModifier

    return GPTQModifier(ignore=["lm_head"], config_groups=scheme)


def quantize(model: Any, tokens: Any, variant: str) -> Any:
    """Run one ``oneshot``; its forward passes then round the weights as a server would."""
    from datasets import Dataset
    from llmcompressor import oneshot

    samples, seqlen = tokens.shape
    dataset = Dataset.from_dict(
        {"input_ids": tokens.tolist(), "attention_mask": [[1] * seqlen] * samples}
    )
    oneshot(
        model=model,
        dataset=dataset,
        recipe=modifier(variant),
        num_calibration_samples=samples,
        max_seq_length=seqlen,
        shuffle_calibration_samples=False,
    )
    return model
