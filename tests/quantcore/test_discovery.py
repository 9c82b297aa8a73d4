from __future__ import annotations

import copy
import re
import sys

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quantcore import discovery as module
from quantcore.discovery import PROVEN_FAMILIES, discover
from quantcore.errors import InputError
from quantcore.structure import Absorber, Block, Structure, fold
from quantcore.structure import fold as right_fold
from tests.conftest import FAMILIES, family_structure, tiny_model

TOKENS = torch.arange(60).view(2, 30) * 7 % 160


def fold_everything(model: nn.Module, structure: Structure, *, seed: int = 0) -> None:
    """Random scales in [1/4, 4] into every absorber of every block."""
    generator = torch.Generator().manual_seed(seed)
    for block in structure.blocks:
        for one in block.folds:
            free = 4 ** (torch.rand(4096, generator=generator) * 2 - 1)
            fold(block, {}, one.absorber, one.consumers, free[one.absorber.rows])


def folding_preserves_the_function(model: PreTrainedModel, tolerance: float) -> None:
    """Oracle: after folding random scales everywhere, logits are what they were."""
    folded = copy.deepcopy(model)
    with torch.no_grad():
        before = model(TOKENS).logits.double()
        fold_everything(folded, discover(folded))
        after = folded(TOKENS).logits.double()
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), folded.parameters(), strict=True)
    )
    assert float((after - before).norm() / before.norm()) < tolerance


def test_folding_preserves_the_function(family_model: PreTrainedModel) -> None:
    folding_preserves_the_function(family_model, 1e-5)


def test_folding_preserves_the_function_in_bfloat16(family_model: PreTrainedModel) -> None:
    """Rounding to 8 bits of mantissa moves logits; a wrong fold moves them by their own size."""
    model = family_model.to(torch.bfloat16)
    folding_preserves_the_function(model, 0.05)


def _forgets_the_bias(
    block: Block,
    weights: dict[str, Tensor],
    absorber: Absorber,
    readers: object,
    scales: Tensor,
) -> Tensor:
    target = block.module.get_submodule(absorber.name)
    bias = getattr(target, "bias", None)
    kept = None if bias is None else bias.detach().clone()
    folded = right_fold(block, weights, absorber, readers, scales)  # type: ignore[arg-type]
    if kept is not None:
        with torch.no_grad():
            bias.copy_(kept)
    return folded


def _forgets_a_reader(
    block: Block,
    weights: dict[str, Tensor],
    absorber: Absorber,
    readers: object,
    scales: Tensor,
) -> Tensor:
    return right_fold(block, weights, absorber, readers[:1], scales)  # type: ignore[index]


@pytest.mark.parametrize("planted", [_forgets_the_bias, _forgets_a_reader])
def test_the_oracle_catches_a_wrong_fold(planted: object, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("opt")
    found = discover(model)  # by the right fold: it would refuse the wrong one itself
    here = sys.modules[__name__]
    monkeypatch.setattr(here, "discover", lambda other: discover_again(other, found))
    monkeypatch.setattr(here, "fold", planted)
    with pytest.raises(AssertionError):
        folding_preserves_the_function(model, 1e-5)


def discover_again(model: nn.Module, found: Structure) -> Structure:
    """The same groups over another copy of the model."""
    blocks = tuple(
        Block(
            name=b.name,
            module=model.get_submodule(b.name),
            matrices=b.matrices,
            groups=b.groups,
        )
        for b in found.blocks
    )
    return Structure(blocks=blocks, exempt=found.exempt, notices=found.notices)


def test_discovery_itself_refuses_a_fold_that_changes_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "fold", _forgets_a_reader)
    found = discover(tiny_model("llama"))
    assert found.blocks[0].groups[0].absorber is None
    assert "reads what input_layernorm writes" in found.notices[0]


def test_llama_groups() -> None:
    groups = discover(tiny_model("llama")).blocks[1].groups
    assert [group.label for group in groups] == [
        "q_proj+k_proj+v_proj",
        "o_proj",
        "gate_proj+up_proj",
        "down_proj",
    ]
    names = [group.absorber.name for group in groups if group.absorber]
    assert names == [
        "input_layernorm",
        "self_attn.v_proj",
        "post_attention_layernorm",
        "mlp.up_proj",
    ]


def test_grouped_query_heads_repeat_the_rows_of_v() -> None:
    absorber = discover(tiny_model("llama")).blocks[0].groups[1].absorber
    assert absorber is not None
    first, second = torch.arange(16), torch.arange(16, 32)
    assert torch.equal(absorber.rows, torch.cat([first, first, second, second]))


def test_multi_query_and_full_heads() -> None:
    for heads, expected in ((1, 16), (4, 64)):
        absorber = (
            discover(tiny_model("llama", num_key_value_heads=heads)).blocks[0].groups[1].absorber
        )
        assert absorber is not None
        assert len(absorber.rows.unique()) == expected


def test_a_relu_lets_scales_through() -> None:
    group = discover(tiny_model("opt")).blocks[0].groups[3]
    assert group.label == "fc2"
    assert group.absorber is not None
    assert group.absorber.name == "fc1"
    assert torch.equal(group.absorber.rows, torch.arange(96))


def test_a_gelu_does_not() -> None:
    import transformers as hf

    config = hf.OPTConfig(
        hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=160,
        max_position_embeddings=128, word_embed_proj_dim=64, activation_function="gelu",
    )  # fmt: skip
    found = discover(hf.OPTForCausalLM(config).eval())
    assert found.blocks[0].groups[3].absorber is None
    assert "fc2" in " ".join(found.notices)


def test_a_norm_that_also_feeds_the_residual_takes_no_scales() -> None:
    import transformers as hf

    config = hf.OPTConfig(
        hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=160,
        max_position_embeddings=128, word_embed_proj_dim=64, do_layer_norm_before=False,
    )  # fmt: skip
    group = discover(hf.OPTForCausalLM(config).eval()).blocks[0].groups[2]
    assert group.label == "fc1"
    assert group.absorber is None
    assert "something besides fc1 reads" in group.reason


@pytest.mark.parametrize("family", FAMILIES)
def test_every_matrix_is_quantized_or_exempt(family: str) -> None:
    found = family_structure(family)
    quantized = [
        f"{block.name}.{block.matrices[name].parameter}"
        for block in found.blocks
        for group in block.groups
        for name in group.linears
    ]
    matrices = {name: p for name, p in tiny_model(family).named_parameters() if p.dim() >= 2}
    assert set(quantized) | set(found.exempt) == set(matrices)
    assert not set(quantized) & set(found.exempt)
    for name, parameter in matrices.items():
        if name in quantized:  # once, or once for each expert
            assert quantized.count(name) == (len(parameter) if parameter.dim() == 3 else 1), name
    assert sum(weight.numel() for _, weight in found.quantized()) == sum(
        matrices[name].numel() for name in set(quantized)
    )


def test_a_pattern_exempts_one_matrix_or_one_expert() -> None:
    found = discover(tiny_model("mixtral"), exclude=["*.0.*v_proj", "*.1.*gate_up_proj.2"])
    assert "model.layers.0.self_attn.v_proj.weight" in found.exempt
    assert "model.layers.1.mlp.experts.gate_up_proj[2]" in found.exempt
    assert sum("v_proj" in name or "experts" in name for name in found.exempt) == 2


def test_a_pattern_takes_no_name_that_only_begins_or_ends_like_it() -> None:
    found = discover(tiny_model("llama", num_hidden_layers=11), exclude=["model.layers.1"])
    assert {len(block.groups[0].linears) for block in found.blocks[:1] + found.blocks[2:]} == {3}
    assert not any(group.linears for group in found.blocks[1].groups)
    mixture = discover(tiny_model("qwen2-moe"), exclude=["up_proj"]).exempt
    assert "model.layers.0.mlp.shared_expert.up_proj.weight" in mixture
    assert not any("experts.gate_up_proj" in name for name in mixture)


def test_an_excluded_linear_still_reads_the_scaled_input() -> None:
    group = discover(tiny_model("llama"), exclude=["*.k_proj"]).blocks[0].groups[0]
    assert "self_attn.k_proj" not in group.linears
    assert "self_attn.k_proj" in group.consumers


def test_an_unknown_norm_is_an_error_that_says_what_to_add() -> None:
    class SquaredNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(64) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            return x * x.square().mean(-1, keepdim=True).rsqrt() * self.weight.square()

    model = tiny_model("llama")
    for block in model.model.layers:
        block.input_layernorm = SquaredNorm()
    with pytest.raises(InputError, match=r"SquaredNorm \(input_layernorm\).*has to learn it"):
        discover(model)


def test_an_unaccounted_matrix_is_an_error() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.extra = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(InputError, match=r"mlp\.extra \[4, 4\].*has to learn it"):
        discover(model)


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=re.escape("*.w2")):
        discover(tiny_model("llama"), exclude=["*.w2"])


@pytest.mark.parametrize(
    ("family", "reader", "writer", "rows"),
    [
        ("phi3", "o_proj", "self_attn.qkv_proj", [*range(96, 128)]),
        ("phi3", "down_proj", "mlp.gate_up_proj", [*range(96, 192)]),
        ("gpt2", "c_proj", "attn.c_attn", [*range(128, 192)]),
        # every head keeps its q, k and v together, 16 rows each
        (
            "gpt-neox",
            "dense",
            "attention.query_key_value",
            [48 * head + 32 + i for head in range(4) for i in range(16)],
        ),
        ("mixtral", "down_proj.3", "mlp.experts.gate_up_proj.3", [*range(96, 192)]),
    ],
)
def test_only_some_rows_of_a_fused_projection_pass(
    family: str, reader: str, writer: str, rows: list[int]
) -> None:
    groups = discover(tiny_model(family)).blocks[1].groups
    absorber = next(group.absorber for group in groups if group.label == reader)
    assert absorber is not None
    assert absorber.name == writer
    assert absorber.rows.unique().tolist() == rows


def test_parallel_attention_shares_one_norm() -> None:
    group = discover(tiny_model("phi")).blocks[0].groups[0]
    assert group.label == "q_proj+k_proj+v_proj+fc1"
    assert group.absorber is not None


@pytest.mark.parametrize(("family", "count"), [("mixtral", 4), ("qwen3-moe", 8)])
def test_experts_and_their_router_share_one_norm(family: str, count: int) -> None:
    found = discover(tiny_model(family))
    block = found.blocks[0]
    shared = next(f for f in block.folds if f.absorber.name == "post_attention_layernorm")
    assert shared.consumers == (
        "mlp.gate",
        *(f"mlp.experts.gate_up_proj.{expert}" for expert in range(count)),
    )
    assert f"{block.name}.mlp.gate.weight" in found.exempt
    assert not any("mlp.gate" in group.linears for group in block.groups)
    inputs = [group.linears for group in block.groups if "experts" in str(group.linears)]
    assert len(inputs) == 2 * count  # statistics of its own for each


def test_experts_that_the_probe_never_met_are_found_too() -> None:
    model = tiny_model("mixtral")
    with torch.no_grad():
        for block in model.model.layers:
            block.mlp.gate.weight[2] = 0
            block.mlp.gate.weight[2, 0] = -1e4
            block.post_attention_layernorm.weight[0] = 3
    names = {name for group in discover(model).blocks[0].groups for name in group.linears}
    assert {f"mlp.experts.down_proj.{expert}" for expert in range(4)} <= names
    folding_preserves_the_function(model, 1e-5)


def test_the_text_part_of_a_model_that_also_sees() -> None:
    import transformers as hf

    text = tiny_model("gemma3").config.to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = hf.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = hf.Gemma3ForConditionalGeneration(config).eval()
    found = discover(model)
    assert len(found.blocks) == 2
    assert all("language_model" in block.name for block in found.blocks)
    assert any("vision_tower" in name for name in found.exempt)


def test_every_family_that_is_listed_is_proven_and_the_other_way_round() -> None:
    proven = {tiny_model(family).config.model_type for family in FAMILIES}
    assert set(PROVEN_FAMILIES) == proven
