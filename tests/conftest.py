"""Tiny random models of real classes, with random norms and biases, in the shapes that matter."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.utils import logging as transformers_logging

from quantcore.discovery import discover
from quantcore.structure import Structure

transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
torch.set_num_threads(1)  # small tensors: more only wait for each other, and for other workers


CLASSES = {
    "llama": "Llama",
    "llama-bias": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "opt": "OPT",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3",
    "phi": "Phi",
    "phi3": "Phi3",
    "gpt-neox": "GPTNeoX",
    "gpt2": "GPT2",
    "mixtral": "Mixtral",
    "qwen3-moe": "Qwen3Moe",
    "qwen2-moe": "Qwen2Moe",
    "bloom": "Bloom",
    "cohere": "Cohere",
    "falcon": "Falcon",
    "gpt-bigcode": "GPTBigCode",
    "gptj": "GPTJ",
    "granite": "Granite",
    "olmo2": "Olmo2",
    "smollm3": "SmolLM3",
    "starcoder2": "Starcoder2",
}
"""The families, and what their classes in Transformers begin with."""

FAMILIES = tuple(CLASSES)


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
    extra: dict[str, Any] = {}
    if family in ("opt", "gpt-neox", "gpt2", "bloom", "falcon", "gpt-bigcode", "gptj"):
        del sizes["num_key_value_heads"]
    if family == "opt":
        sizes["ffn_dim"] = sizes.pop("intermediate_size")
        sizes["word_embed_proj_dim"] = sizes["hidden_size"]
    elif family in ("gpt2", "gpt-bigcode", "gptj"):
        sizes["n_inner"] = sizes.pop("intermediate_size")
        extra = {"rotary_dim": 8} if family == "gptj" else {}
    elif family == "falcon":
        sizes["ffn_hidden_size"] = sizes.pop("intermediate_size")
    elif family == "llama-bias":
        extra = {"attention_bias": True, "mlp_bias": True}
    elif family in ("qwen3", "gemma"):
        extra = {"head_dim": 16}
    elif family in ("gemma2", "gemma3"):
        layers = ["sliding_attention", "full_attention"]
        extra = {"head_dim": 16, "sliding_window": 24, "layer_types": layers}
        extra["query_pre_attn_scalar"] = 16
    elif family == "mixtral":
        extra = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16}
    elif family in ("qwen3-moe", "qwen2-moe"):
        extra = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        extra |= {"head_dim": 16} if family == "qwen3-moe" else {}
        extra |= {"shared_expert_intermediate_size": 48} if family == "qwen2-moe" else {}
    name = CLASSES[family]
    config = getattr(hf, f"{name}Config")
    if family == "gemma3":
        config = hf.Gemma3TextConfig
    head = "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    model = getattr(hf, f"{name}{head}")(config(**sizes, **extra))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.mul_(4)  # the initial 0.02 leaves attention flat and tests blind
    return model.eval()


@cache
def family_structure(family: str) -> Structure:
    """What discovery reads off the family's tiny model, once for all tests that only look at it."""
    return discover(tiny_model(family))


class MisnamedAttention(LlamaAttention):
    """Llama's, with a query and a key of meaningless names and a `key` that is the value."""

    q_proj = property(lambda self: self.wq)
    k_proj = property(lambda self: self.up)
    v_proj = property(lambda self: self.key)


def misnamed_llama() -> PreTrainedModel:
    """A tiny Llama whose names mislead."""
    model = tiny_model("llama")
    for layer in model.model.layers:
        attention = layer.self_attn
        for new, old in {"wq": "q_proj", "up": "k_proj", "key": "v_proj"}.items():
            setattr(attention, new, attention._modules.pop(old))
        attention.__class__ = MisnamedAttention
    return model


@pytest.fixture(params=FAMILIES)
def family_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return tiny_model(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As set above, for the next test too."""
    yield
    torch.set_num_threads(1)


NAMED_S = 15.0
"""Seconds of a processor from which a test without the mark ``slow`` is named: the ten that the
mark stands for, and what machines differ by. What a test waits is not counted."""


def processor_s() -> float:
    """What this process and the ended ones that it started have used so far."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    before = processor_s()
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor_s", processor_s() - before))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name tests that want the mark ``slow``; no failure, since machines differ."""
    called = [
        one
        for outcome in ("passed", "failed")
        for one in terminalreporter.stats.get(outcome, [])
        if one.when == "call" and "slow" not in one.keywords
    ]
    took = [(dict(one.user_properties).get("processor_s", 0.0), one.nodeid) for one in called]
    late = sorted((one for one in took if one[0] > NAMED_S), reverse=True)
    if late:
        terminalreporter.section(f"{NAMED_S:g} s and more, and not marked slow")
        for seconds, name in late:
            terminalreporter.write_line(f"{seconds:.1f} s {name}")
