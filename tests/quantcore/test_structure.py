from __future__ import annotations

import pytest
import torch

from quantcore.discovery import discover
from quantcore.errors import InputError
from quantcore.scheme import QuantScheme
from quantcore.structure import block_list, fold
from tests.conftest import tiny_model


def test_a_list_of_blocks_is_required() -> None:
    model = tiny_model("llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(InputError, match="one list of 5 blocks"):
        block_list(model)


def test_group_sizes_that_fit_are_named() -> None:
    found = discover(tiny_model("llama"))
    with pytest.raises(InputError, match=r"int4-g128: .*64, 96.*fit this model: 16, 32"):
        found.check_scheme(QuantScheme.parse("int4-g128"))
    found.check_scheme(QuantScheme.parse("int4-g32"))
    found.check_scheme(QuantScheme.parse("int4-channel"))


def test_norms_are_folded_by_what_their_dtype_really_carries() -> None:
    block = discover(tiny_model("llama").to(torch.bfloat16)).blocks[0]
    norm, group = block.module.get_submodule("input_layernorm"), block.groups[0]
    assert group.absorber is not None
    before = norm.weight.float().clone()
    asked = torch.full((64,), 1.001)
    carried = fold(block, {}, group.absorber, group.consumers, asked)
    assert torch.allclose(norm.weight.float() * carried, before, rtol=1e-6)
    assert not torch.allclose(carried, asked, rtol=1e-4)


def test_norms_that_add_one_to_their_weight() -> None:
    """Gemma: (1 + w) / s, and what bfloat16 really stores is carried by the readers."""
    block = discover(tiny_model("gemma").to(torch.bfloat16)).blocks[0]
    norm, group = block.module.get_submodule("input_layernorm"), block.groups[0]
    assert group.absorber is not None
    assert group.absorber.offset == 1
    before = 1 + norm.weight.float()
    carried = fold(block, {}, group.absorber, group.consumers, torch.full((64,), 3.0))
    assert torch.allclose((1 + norm.weight.float()) * carried, before, rtol=1e-6)
