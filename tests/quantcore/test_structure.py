from __future__ import annotations

import copy
import re
import sys

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from quantcore import structure as module
from quantcore.errors import InputError
from quantcore.scheme import QuantScheme
from quantcore.structure import Absorber, Structure, discover, fold
from quantcore.structure import fold as right_fold
from tests.conftest import tiny_model

TOKENS = torch.arange(60).view(2, 30) * 7 % 160


def fold_everything(model: nn.Module, structure: Structure, *, seed: int = 0) -> None:
    """Random scales in [1/4, 4] into every absorber of every block."""
    generator = torch.Generator().manual_seed(seed)
    for block in structure.blocks:
        for group in block.groups:
            if group.absorber is not None:
                free = 4 ** (torch.rand(4096, generator=generator) * 2 - 1)
                scales = free[group.absorber.rows]
                fold(block.module, {}, group.absorber, group.consumers, scales)


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


def _wrong_rows(rows: Tensor) -> Tensor:
    return rows.flip(0)


def _forgets_the_bias(
    block: nn.Module,
    weights: dict[str, Tensor],
    absorber: Absorber,
    readers: object,
    scales: Tensor,
) -> Tensor:
    target = block.get_submodule(absorber.name)
    bias = getattr(target, "bias", None)
    kept = None if bias is None else bias.detach().clone()
    folded = right_fold(block, weights, absorber, readers, scales)  # type: ignore[arg-type]
    if kept is not None:
        with torch.no_grad():
            bias.copy_(kept)
    return folded


def _forgets_a_reader(
    block: nn.Module,
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
        module.Block(name=b.name, module=model.get_submodule(b.name), groups=b.groups)
        for b in found.blocks
    )
    return Structure(blocks=blocks, exempt=found.exempt, notices=found.notices)


def test_discovery_itself_refuses_a_fold_that_changes_the_function(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "fold", _forgets_a_reader)
    with pytest.raises(InputError, match="input_layernorm"):
        discover(tiny_model("llama"))


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


def test_every_matrix_is_quantized_or_exempt(family_model: PreTrainedModel) -> None:
    found = discover(family_model, exclude=["*.0.*v_proj"])
    quantized = {
        f"{block.name}.{name}.weight"
        for block in found.blocks
        for group in block.groups
        for name in group.linears
    }
    matrices = {name for name, p in family_model.named_parameters() if p.dim() >= 2}
    assert quantized | set(found.exempt) == matrices
    assert not quantized & set(found.exempt)
    assert sum(name.endswith("v_proj.weight") for name in found.exempt) == 1


def test_an_excluded_linear_still_reads_the_scaled_input() -> None:
    group = discover(tiny_model("llama"), exclude=["*.k_proj"]).blocks[0].groups[0]
    assert "self_attn.k_proj" not in group.linears
    assert "self_attn.k_proj" in group.consumers


def test_an_unknown_norm_is_an_error_that_says_what_to_add() -> None:
    import transformers as hf

    config = hf.GemmaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, vocab_size=160,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"input_layernorm.*not proportional.*has to learn it"):
        discover(hf.GemmaForCausalLM(config).eval())


def test_an_unaccounted_matrix_is_an_error() -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.extra = nn.Parameter(torch.zeros(4, 4))
    with pytest.raises(InputError, match=r"mlp\.extra \[4, 4\].*has to learn it"):
        discover(model)


def test_patterns_that_match_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=re.escape("*.w2")):
        discover(tiny_model("llama"), exclude=["*.w2"])


def test_group_sizes_that_fit_are_named() -> None:
    found = discover(tiny_model("llama"))
    with pytest.raises(InputError, match=r"int4-g128: .*64, 96.*fit this model: 16, 32"):
        found.check_scheme(QuantScheme.parse("int4-g128"))
    found.check_scheme(QuantScheme.parse("int4-g32"))
    found.check_scheme(QuantScheme.parse("int4-channel"))


def test_norms_are_folded_by_what_their_dtype_really_carries() -> None:
    block = tiny_model("llama").to(torch.bfloat16).model.layers[0]
    group = discover(tiny_model("llama")).blocks[0].groups[0]
    assert group.absorber is not None
    before = block.input_layernorm.weight.float().clone()
    asked = torch.full((64,), 1.001)
    carried = fold(block, {}, group.absorber, group.consumers, asked)
    assert torch.allclose(block.input_layernorm.weight.float() * carried, before, rtol=1e-6)
    assert not torch.allclose(carried, asked, rtol=1e-4)
