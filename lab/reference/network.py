"""The reference model is a Llama, which attends in blocks in training, with salient channels."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lab.reference.recipe import Recipe


def _causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend in blocks of 256 queries, twice as fast as PyTorch's fused kernel on a CPU.

    Shapes are as Transformers hands them on: query [batch, heads, tokens, width], key and value
    with fewer heads; returns [batch, tokens, heads, width].
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (heads.repeat_interleave(groups, dim=1) for heads in (key, value))
    tokens, blocks = query.shape[2], []
    for start in range(0, tokens, 256):
        end = min(tokens, start + 256)
        scores = (query[:, :, start:end] * scaling) @ key[:, :, :end].transpose(-1, -2)
        later = torch.ones(end - start, end, dtype=torch.bool).triu(1 + start)
        blocks.append(scores.masked_fill(later, -math.inf).softmax(-1) @ value[:, :, :end])
    return torch.cat(blocks, dim=2).transpose(1, 2), None


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Make a Llama of the recipe's sizes with seeded weights."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.hidden_size,
            intermediate_size=recipe.intermediate_size,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.key_value_heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@torch.no_grad()
def spread_norms(model: LlamaForCausalLM, recipe: Recipe) -> None:
    """Give every channel behind a norm a gain of its own, without changing the function.

    In large trained models a few input channels carry activations many times larger than the rest;
    they are what AWQ is about. A model this small does not grow them in 15 M tokens: 99 in 100 of
    its channels lay within twice the median, AWQ found next to nothing to scale, and which method
    came out ahead was rounding luck. So gains are multiplied by log-normal factors, the columns
    that read them divided by the same, and training goes on from there.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for norm, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
        ):
            noise = torch.randn(recipe.hidden_size, generator=generator)
            factors = torch.exp(recipe.spread_sigma * noise)
            norm.weight.mul_(factors)
            for reader in readers:
                reader.weight.div_(factors)


def attend_in_blocks(model: LlamaForCausalLM) -> None:
    """Have the model attend with `_causal_attention`; batches must be without padding."""
    AttentionInterface.register("causal_blocks", _causal_attention)
    model.set_attn_implementation("causal_blocks")


def load_weights(model: LlamaForCausalLM, path: Path, *, prefix: str = "") -> None:
    """Fill the model from a snapshot, or from a checkpoint with the prefix ``model/``."""
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[prefix + name])
