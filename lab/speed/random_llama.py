"""Llamas with random weights take the time and memory that trained ones of their shape take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quantcore.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES: dict[str, dict[str, int]] = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 160,
    },
}
"""Llamas by name; ``tiny`` is for trying a benchmark out."""


def random_llama(
    shape: str, blocks: int | None, seqlen: int, *, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """Make a Llama with random weights where it will live.

    Args:
        shape: a name of `SHAPES`.
        blocks: how many it has; None for all of the shape.
        seqlen: tokens that its context has to hold.
        device: where it is.
        dtype: what it runs in.

    Raises:
        InputError: the shape is unknown, or has fewer blocks.
    """
    import transformers as hf

    if shape not in SHAPES:
        raise InputError(f"--shape {shape!r} is unknown; known: {', '.join(SHAPES)}")
    sizes = dict(SHAPES[shape])
    if blocks is not None:
        if not 1 <= blocks <= sizes["num_hidden_layers"]:
            raise InputError(
                f"--blocks {blocks}: must be 1 to {sizes['num_hidden_layers']}, as {shape} has"
            )
        sizes["num_hidden_layers"] = blocks
    config = hf.LlamaConfig(**sizes, max_position_embeddings=max(seqlen, 64))
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = hf.LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()
