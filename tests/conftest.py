"""Tiny random models of real classes, with random norms and biases, in the shapes that matter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

FAMILIES = ("llama", "llama-bias", "mistral", "qwen2", "qwen3", "opt")


def tiny_model(family: str, *, seed: int = 0, **changes: int) -> PreTrainedModel:
    """A two-block model of the family's own class; its norms and biases are random."""
    import transformers as hf

    sizes = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 160,
        "max_position_embeddings": 128,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        **changes,
    }
    torch.manual_seed(seed)
    if family == "opt":
        sizes["ffn_dim"] = sizes.pop("intermediate_size")
        sizes["word_embed_proj_dim"] = sizes["hidden_size"]
        del sizes["num_key_value_heads"]
        model = hf.OPTForCausalLM(hf.OPTConfig(**sizes))
    elif family == "llama":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes))
    elif family == "llama-bias":
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, attention_bias=True, mlp_bias=True))
    elif family == "mistral":
        model = hf.MistralForCausalLM(hf.MistralConfig(**sizes))
    elif family == "qwen2":
        model = hf.Qwen2ForCausalLM(hf.Qwen2Config(**sizes))
    elif family == "qwen3":
        model = hf.Qwen3ForCausalLM(hf.Qwen3Config(**sizes, head_dim=16))
    else:
        raise AssertionError(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.mul_(4)  # the initial 0.02 leaves attention flat and tests blind
    return model.eval()


@pytest.fixture(params=FAMILIES)
def family_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(2, before))
    yield
    torch.set_num_threads(before)
