"""Our words are those that the formats' own libraries write, bit for bit, and mean the same."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from quantcore.formats import awq, compressed_tensors, gptq
from quantcore.grid import QuantizedWeight
from quantcore.scheme import QuantScheme
from tests.quantcore.formats.packed_by_others import FILE


@cache
def held() -> dict[str, dict[str, Tensor]]:
    """By label: what a library packed or decoded, and what it was given."""
    made: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(FILE).items():
        label, _, part = key.rpartition("/")
        made.setdefault(label, {})[part] = tensor
    return made


def given(parts: dict[str, Tensor], scheme: QuantScheme) -> QuantizedWeight:
    return QuantizedWeight(
        codes=parts["codes"], scales=parts["scales of codes"], zeros=parts["zeros"], scheme=scheme
    )


def check(layout: ModuleType, parts: dict[str, Tensor], scheme: QuantScheme) -> None:
    """Both ways: what we pack is what they packed, and what they packed is what they were given."""
    weight = given(parts, scheme)
    packed = layout.pack(weight)
    for name, tensor in packed.items():
        assert torch.equal(tensor, parts[name].to(tensor.dtype)), name
    theirs = {name: parts[name] for name in layout.SUFFIXES if name in parts}
    again = layout.unpack(theirs, scheme, tuple(weight.codes.shape))
    for name in ("codes", "scales", "zeros"):
        assert torch.equal(getattr(again, name), getattr(weight, name)), name


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True], ids=["zero-points", "sym"])
def test_compressed_tensors(bits: int, symmetric: bool) -> None:
    scheme = QuantScheme(bits=bits, group_size=32, symmetric=symmetric)
    parts = held()[f"compressed-tensors/{scheme.name}"]
    check(compressed_tensors, parts, scheme)
    decoded = given(parts, scheme).dequantize()
    assert torch.equal(parts["decoded"].float(), decoded.to(parts["decoded"].dtype).float())


@pytest.mark.parametrize("name", ["int2-g32", "int3-g32-sym", "int3-g32", "int4-g32", "int8-g32"])
def test_gptqmodel(name: str) -> None:
    scheme = QuantScheme.parse(name)
    check(gptq, held()[f"gptq/{name}/1"], scheme)
    second = held()[f"gptq/{name}/2"]
    theirs = {part: second[part] for part in gptq.SUFFIXES}
    again = gptq.unpack_v2(theirs, scheme, tuple(second["codes"].shape))
    assert torch.equal(again.codes, second["codes"])
    assert torch.equal(again.zeros, second["zeros"])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_zero_point_of_0_borrows_as_in_gptqmodel(bits: int) -> None:
    """It has no place in the first version, and GPTQModel subtracts from whole words."""
    scheme = QuantScheme(bits=bits, group_size=32)
    parts = held()[f"gptq with 0/{scheme.name}"]
    assert not parts["zeros"].all()
    check(gptq, parts, scheme)


def test_awqs_words_mean_what_autoawq_decodes() -> None:
    parts = held()["awq"]
    weight = awq.unpack(parts, QuantScheme.parse("int4-g32"), (24, 64))
    assert torch.equal(weight.dequantize(), parts["decoded"].float())
