from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from torch import nn

from quantcore.errors import InputError
from quantcore.exclusion import matches, without
from quantcore.structure import Block, LinearGroup, Matrix


def blocks_of(count: int, names: Sequence[str], *, under: str = "model.layers") -> list[Block]:
    """Blocks of one group that holds linears of these names; a number at the end is an expert."""
    matrices = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        matrices[name] = (
            Matrix(name=name, parameter=owner, expert=int(last))
            if last.isdigit()
            else Matrix(name=name, parameter=f"{name}.weight")
        )
    group = LinearGroup(
        index=0,
        linears=tuple(names),
        consumers=tuple(names),
        in_features=64,
        absorber=None,
    )
    return [
        Block(name=f"{under}.{index}", module=nn.Module(), matrices=matrices, groups=(group,))
        for index in range(count)
    ]


LLAMA = ("self_attn.v_proj", "mlp.gate_up_proj", "mlp.up_proj", "mlp.down_proj")
EXPERTS = tuple(f"mlp.experts.down_proj.{expert}" for expert in range(32))


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("layers.1", ["model.layers.1.mlp.up_proj"]),
        ("model.layers.1", ["model.layers.1.mlp.up_proj"]),
        ("model.layers.1.mlp.up_proj", ["model.layers.1.mlp.up_proj"]),
        ("up_proj", ["model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"]),
        ("mlp.up_proj", ["model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"]),
        ("proj", []),
        ("layers.mlp", []),
        ("", []),
        ("model.layers.1*.up_proj", ["model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"]),
        ("model.layers.1.*", ["model.layers.1.mlp.up_proj"]),
        ("layers.1.*", []),
        ("*.up_proj", ["model.layers.1.mlp.up_proj", "model.layers.10.mlp.up_proj"]),
        ("*gate_up*", ["model.layers.10.mlp.gate_up_proj"]),
        ("*.layers.1?.*.up_proj", ["model.layers.10.mlp.up_proj"]),
        ("*.c_attn", ["transformer.h.0.attn.c_attn"]),
        ("attn.c_attn", ["transformer.h.0.attn.c_attn"]),
        ("experts.down_proj.3", ["model.layers.2.mlp.experts.down_proj.3"]),
        ("down_proj", [f"model.layers.2.mlp.experts.down_proj.{one}" for one in (3, 30)]),
        ("*.down_proj.3", ["model.layers.2.mlp.experts.down_proj.3"]),
        ("*.down_proj.3[0-9]", ["model.layers.2.mlp.experts.down_proj.30"]),
    ],
)
def test_a_pattern_is_whole_parts_or_with_wildcards_the_full_name(
    pattern: str, matched: list[str]
) -> None:
    names = [
        "model.layers.1.mlp.up_proj",
        "model.layers.10.mlp.up_proj",
        "model.layers.10.mlp.gate_up_proj",
        "model.layers.2.mlp.experts.down_proj.3",
        "model.layers.2.mlp.experts.down_proj.30",
        "transformer.h.0.attn.c_attn",
    ]
    assert [name for name in names if matches(name, pattern)] == matched


def test_one_layer_of_many_is_left_out() -> None:
    kept, left_out = without(blocks_of(20, LLAMA), ["layers.1", "up_proj"])
    assert [len(block.groups[0].linears) for block in kept] == [3, 0, *[3] * 18]
    assert {len(block.groups[0].consumers) for block in kept} == {4}
    first = [f"model.layers.1.{name}.weight" for name in LLAMA]
    others = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(20) if i != 1]
    assert sorted(left_out) == sorted(first + others)


def test_one_expert_of_many_is_left_out() -> None:
    kept, left_out = without(blocks_of(2, EXPERTS), ["layers.1.mlp.experts.down_proj.3"])
    assert left_out == ["model.layers.1.mlp.experts.down_proj[3]"]
    assert set(EXPERTS) - set(kept[1].groups[0].linears) == {"mlp.experts.down_proj.3"}


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (
            "up_pro",
            "exclude up_pro: matches no linear; a pattern without wildcards is whole parts of a "
            "name; '*up_pro*' would match 4, first model.layers.0.mlp.gate_up_proj; this model has",
        ),
        (
            "layers.0.*",
            "exclude layers.0.*: matches no linear; a pattern with wildcards is the full name; "
            "'*layers.0.*' would match 4, first model.layers.0.self_attn.v_proj; this model has",
        ),
        ("", "exclude : matches no linear; this model has model.layers.*.mlp.down_proj, "),
        ("w2", "exclude w2: matches no linear; this model has model.layers.*.mlp.down_proj, "),
    ],
)
def test_a_pattern_that_matches_nothing_says_what_would(pattern: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(said)}") as caught:
        without(blocks_of(2, LLAMA), ["down_proj", pattern])
    assert (caught.value.setting, caught.value.found) == ("exclude", pattern)
    assert "model.layers.*.mlp.down_proj" in caught.value.allowed


def test_linears_of_later_blocks_and_experts_are_named_too() -> None:
    blocks = [*blocks_of(1, LLAMA), *blocks_of(1, EXPERTS)]
    with pytest.raises(InputError, match=r"has model\.layers\.\*\.mlp\.down_proj, .*") as caught:
        without(blocks, ["w2"])
    assert "model.layers.*.mlp.experts.down_proj.*" in str(caught.value)
    assert str(caught.value).count("experts") == 1


def test_something_has_to_be_left() -> None:
    with pytest.raises(InputError, match="layers: leaves no linear to quantize; exclude fewer"):
        without(blocks_of(2, LLAMA), ["layers"])
