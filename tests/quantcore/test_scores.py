from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from quantcore.discovery import discover
from quantcore.scores import ScoreWatch, score_rows
from quantcore.structure import Block
from tests.conftest import FAMILIES, family_structure, misnamed_llama, tiny_model

TOKENS, WIDTH = 5, 8


def rows_of(block: Block) -> dict[str, list[int]]:
    """Of every matrix with such rows, those that write queries and keys."""
    return {
        name: rows.nonzero()[:, 0].tolist()
        for group in block.groups
        for name, rows in group.score_rows.items()
    }


def rows_by_name(block: Block) -> dict[str, list[int]]:
    """What the known families call queries and keys; in a fused matrix all but what o reads."""
    values = {one.absorber.name: one.absorber.rows.tolist() for one in block.folds}
    found: dict[str, list[int]] = {}
    for group in block.groups:
        for name in group.linears:
            every = range(len(block.weight(name)))
            if any(fnmatchcase(name, one) for one in ("*q_proj", "*k_proj")):
                found[name] = [*every]
            if any(fnmatchcase(name, one) for one in ("*qkv*", "*query_key_value", "*c_attn")):
                found[name] = sorted(set(every) - set(values[name]))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_write_queries_and_keys_where_their_names_say(family: str) -> None:
    for block in family_structure(family).blocks:
        expected = rows_by_name(block)
        assert expected
        assert rows_of(block) == expected


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt-neox", "gpt2", "falcon", "gemma2"])
def test_every_way_to_attend_shows_the_same_rows(family: str) -> None:
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    for block, expected in zip(
        discover(model).blocks, family_structure(family).blocks, strict=True
    ):
        assert rows_of(block) == rows_of(expected)


def test_names_do_not_matter() -> None:
    for block in discover(misnamed_llama()).blocks:
        assert rows_of(block) == {"self_attn.wq": [*range(64)], "self_attn.up": [*range(32)]}


def tiny(name: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(hf, f"{name}Config")(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=160, max_position_embeddings=128, pad_token_id=1, **changes,
    )  # fmt: skip
    return getattr(hf, f"{name}ForCausalLM")(config).eval()


LOW_RANK = {
    "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 12, "num_key_value_heads": 4,
}  # fmt: skip


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["DeepseekV2", "DeepseekV3"])
def test_low_rank_queries_and_keys(name: str, attention: str) -> None:
    """Not q_a, nor what kv_a writes for kv_b: other matrices read these."""
    model = tiny(name, **LOW_RANK, first_k_dense_replace=2)
    model.set_attn_implementation(attention)
    assert rows_of(discover(model).blocks[0]) == {
        "self_attn.q_b_proj": [*range(4 * 24)],
        "self_attn.kv_a_proj_with_mqa": [*range(16, 24)],
        "self_attn.kv_b_proj": [28 * head + i for head in range(4) for i in range(16)],
    }


def test_a_gate_beside_the_query_is_none() -> None:
    model = tiny(
        "Qwen3Next", num_key_value_heads=2, head_dim=16, layer_types=["full_attention"] * 2,
        mlp_only_layers=[0, 1],
    )  # fmt: skip
    assert rows_of(discover(model).blocks[0]) == {
        "self_attn.q_proj": [32 * head + i for head in range(4) for i in range(16)],
        "self_attn.k_proj": [*range(32)],
    }


def test_queries_of_experts() -> None:
    model = tiny(
        "JetMoe", num_key_value_heads=2, kv_channels=16, num_local_experts=4, num_experts_per_tok=2
    )
    queries = "self_attention.experts.input_linear.weight"
    assert rows_of(discover(model).blocks[0]) == {
        "self_attention.kv_proj": [*range(32)],
        **{f"{queries}.{expert}": [*range(32)] for expert in range(4)},
    }


def test_where_no_scores_are_seen_all_that_is_mixed_counts_and_is_told() -> None:
    model = tiny(
        "MiniMax", num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"], block_size=16,
    )  # fmt: skip
    found = discover(model)
    assert rows_of(found.blocks[0]) == {
        "self_attn.qkv_proj": [*range(192)],
        "self_attn.output_gate": [*range(64)],
    }
    assert rows_of(found.blocks[1]) == {
        "self_attn.q_proj": [*range(64)],
        "self_attn.k_proj": [*range(32)],
    }
    told = [text for text in found.notices if "no attention scores" in text]
    assert told == [
        "model.layers.0 and blocks like it: self_attn.out_proj reads several tokens, but no "
        "attention scores were seen: awq+clip leaves self_attn.qkv_proj, self_attn.output_gate "
        "unclipped"
    ]


def written(*names: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (1, TOKENS, WIDTH)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name in names
    }


def found_in(leaves: dict[str, Tensor], watch: ScoreWatch, read: Tensor) -> tuple[set[str], bool]:
    """Whose rows all count, and whether that was guessed."""
    found = score_rows(watch, {name: [leaf] for name, leaf in leaves.items()}, {"o": read})
    assert all(bool(rows.all()) for rows in found.rows.values())
    return set(found.rows), bool(found.guessed)


def test_scores_changed_in_place() -> None:
    leaves = written("q", "k", "v")
    q, k, v = (leaf.clone() for leaf in leaves.values())
    with ScoreWatch() as watch:
        q.mul_(0.5)
        scores = torch.baddbmm(torch.zeros(TOKENS).double(), q, k.mT)
        scores.div_(3).masked_fill_(torch.ones(TOKENS, TOKENS).triu(1) > 0, -torch.inf)
        read = scores.softmax(-1) @ v
    assert found_in(leaves, watch, read) == ({"q", "k"}, False)


def test_operands_by_name() -> None:
    leaves = written("q", "k", "v")
    with ScoreWatch() as watch:
        read = functional.scaled_dot_product_attention(
            value=leaves["v"], key=leaves["k"], query=leaves["q"], is_causal=True
        )
    assert found_in(leaves, watch, read) == ({"q", "k"}, False)


def test_the_softmax_of_a_router_has_no_scores() -> None:
    leaves = written("router", "up")
    with ScoreWatch() as watch:
        read = torch.softmax(input=leaves["router"], dim=-1) * leaves["up"]
    assert found_in(leaves, watch, read) == (set(), False)


def test_a_gated_product_within_a_token_has_no_scores() -> None:
    leaves = written("gate", "up")
    with ScoreWatch() as watch:
        read = functional.silu(leaves["gate"]) * leaves["up"]
    assert found_in(leaves, watch, read) == (set(), False)


@pytest.mark.parametrize("normalize", [torch.sigmoid, lambda scores: scores])
def test_scores_without_a_softmax_are_guessed(normalize: Any) -> None:
    leaves = written("q", "k", "v")
    with ScoreWatch() as watch:
        read = normalize(leaves["q"] @ leaves["k"].mT).tril() @ leaves["v"]
    assert found_in(leaves, watch, read) == ({"q", "k", "v"}, True)


def test_attention_does_not_explain_what_another_matrix_reads() -> None:
    leaves = written("q", "k", "v", "z")
    with ScoreWatch() as watch:
        attended = functional.scaled_dot_product_attention(leaves["q"], leaves["k"], leaves["v"])
        mixed = leaves["z"].cumsum(1)
    parts = {name: [leaf] for name, leaf in leaves.items()}
    found = score_rows(watch, parts, {"o": attended, "out": mixed})
    assert set(found.rows) == {"q", "k", "z"}
    assert found.guessed == {"out": ("z",)}
