"""Every format gives back, bit for bit, what it was given; and words are as written by hand."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.linear import QuantizedLinear
from quantcore.errors import InputError
from quantcore.formats import awq, compressed_tensors, gptq, words
from quantcore.grid import QuantizedWeight, quantize
from quantcore.scheme import QuantScheme

FORMATS = {"awq": awq, "gptq": gptq, "compressed-tensors": compressed_tensors}


def weight(outputs: int, inputs: int, scheme: QuantScheme, seed: int) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(seed)
    return quantize(torch.randn(outputs, inputs, generator=generator), scheme)


def same(one: QuantizedWeight, other: QuantizedWeight) -> bool:
    return one.scheme == other.scheme and all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("codes", "scales", "zeros")
    )


@given(st.integers(2, 8), st.integers(1, 70), st.integers(0, 2**32 - 1))
@settings(deadline=None, derandomize=True, database=None)
def test_streams_come_back(bits: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (3, count), generator=generator, dtype=torch.uint8)
    packed = words.pack(codes, bits)
    assert packed.shape == (3, words.words_of(count, bits))
    assert torch.equal(words.unpack(packed, bits, count), codes)
    # As one whole number: code i begins at bit i * bits.
    for row, stream in zip(codes.tolist(), packed.tolist(), strict=True):
        number = sum(code << (i * bits) for i, code in enumerate(row))
        assert sum((word & 0xFFFFFFFF) << (32 * i) for i, word in enumerate(stream)) == number


@given(
    bits=st.integers(2, 8),
    group=st.sampled_from([32, 64, 128, None]),
    symmetric=st.booleans(),
    outputs=st.integers(1, 48),
    groups=st.integers(1, 3),
    odd=st.integers(1, 70),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=150, derandomize=True, database=None)
@pytest.mark.parametrize("name", FORMATS)
def test_weights_come_back(
    name: str,
    bits: int,
    group: int | None,
    symmetric: bool,
    outputs: int,
    groups: int,
    odd: int,
    seed: int,
) -> None:
    layout = FORMATS[name]
    scheme = QuantScheme(bits=bits, group_size=group, symmetric=symmetric)
    one = weight(outputs, odd if group is None else groups * group, scheme, seed)
    if layout.refusal(scheme, *one.codes.shape):
        with pytest.raises(InputError):
            layout.pack(one)
        return
    tensors = layout.pack(one)
    assert set(tensors) <= set(layout.SUFFIXES)
    again = layout.unpack(tensors, layout.scheme(layout.config(scheme, [])), tuple(one.codes.shape))
    assert same(replace(again, scheme=scheme), one)
    assert torch.equal(again.dequantize(), one.dequantize())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
def test_the_scheme_names_the_dtype_of_the_scales(layout: ModuleType, dtype: torch.dtype) -> None:
    """Others store them in bfloat16, and backends lay scales out by what the scheme says."""
    scheme = QuantScheme(bits=4, group_size=32, scale_dtype=dtype)
    one = weight(32, 64, scheme, 0)
    again = layout.unpack(layout.pack(one), QuantScheme.parse("int4-g32"), (32, 64))
    assert same(again, one)
    assert again.scales.dtype is dtype
    layer = QuantizedLinear(again, None, backend="dequant", dtype=torch.float32)
    assert torch.equal(layer.quantized().dequantize(), one.dequantize())


def word(text: str) -> int:
    """An int32 of its hexadecimal digits, the highest bits first."""
    value = int(text, 16)
    return value - 2**32 if value >= 2**31 else value


def counted(*, outputs: int = 8, inputs: int = 32) -> QuantizedWeight:
    """Output n has code n everywhere, and zero point 15 - n."""
    codes = torch.arange(outputs, dtype=torch.uint8)[:, None].expand(outputs, inputs).contiguous()
    return QuantizedWeight(
        codes=codes,
        scales=torch.ones(outputs, 1, dtype=torch.float16),
        zeros=(15 - codes[:, :1]).contiguous(),
        scheme=QuantScheme(bits=4, group_size=None),
    )


def test_awq_interleaves_eight_outputs() -> None:
    packed = awq.pack(counted())
    assert packed["qweight"].tolist() == [[word("75316420")]] * 32
    assert packed["qzeros"].tolist() == [[word("8ACE9BDF")]]
    assert packed["scales"].shape == (1, 8)


def test_gptq_packs_eight_inputs_and_keeps_zero_points_less_one() -> None:
    packed = gptq.pack(counted())
    assert packed["qweight"].tolist() == [[word(f"{n:x}" * 8) for n in range(8)]] * 4
    assert packed["qzeros"].tolist() == [[word("789ABCDE")]]
    assert packed["g_idx"].tolist() == [0] * 32
    v2 = {**packed, "qzeros": torch.tensor([[word("89ABCDEF")]], dtype=torch.int32)}
    assert same(gptq.unpack_v2(v2, counted().scheme, (8, 32)), counted())


def test_compressed_tensors_packs_zero_points_along_outputs() -> None:
    packed = compressed_tensors.pack(counted())
    assert packed["weight_packed"].tolist() == [[word(f"{n:x}" * 8)] * 4 for n in range(8)]
    assert packed["weight_zero_point"].tolist() == [[word("89ABCDEF")]]
    assert packed["weight_shape"].tolist() == [8, 32]


def test_an_activation_order_is_kept_as_a_group_index() -> None:
    index = torch.randperm(64, generator=torch.Generator().manual_seed(0)) % 2
    one = replace(weight(8, 64, QuantScheme.parse("int4-g32"), 0), group_index=index)
    tensors = gptq.pack(one)
    again = gptq.unpack(tensors, one.scheme, (8, 64))
    assert again.group_index is not None
    assert torch.equal(again.group_index, index)
    assert torch.equal(again.dequantize(), one.dequantize())
    plain = gptq.unpack({k: v for k, v in tensors.items() if k != "g_idx"}, one.scheme, (8, 64))
    assert plain.group_index is None
    for layout in (awq, compressed_tensors):
        with pytest.raises(InputError, match="no place for a group for every input"):
            layout.pack(one)


@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
def test_what_is_missing_or_misshapen_is_named(layout: ModuleType) -> None:
    one = weight(32, 64, QuantScheme.parse("int4-g32"), 0)
    tensors = layout.pack(one)
    for name in tensors:
        if name == "g_idx":
            continue
        with pytest.raises(InputError, match=f"^{name} is missing"):
            layout.unpack({k: v for k, v in tensors.items() if k != name}, one.scheme, (32, 64))
        wrong = torch.cat([tensors[name], tensors[name]])
        with pytest.raises(InputError, match=rf"^{name} is .*must be"):
            layout.unpack({**tensors, name: wrong}, one.scheme, (32, 64))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (torch.full((64,), 2), "g_idx names groups 2 to 2, and there are 2"),
        (torch.zeros(64), "g_idx gives 64 inputs to group 0, and every group has 32"),
    ],
    ids=["beyond", "uneven"],
)
def test_a_group_index_that_kernels_cannot_run_is_refused(entries: torch.Tensor, said: str) -> None:
    one = weight(32, 64, QuantScheme.parse("int4-g32"), 0)
    index = entries.to(torch.int32)
    with pytest.raises(InputError, match=said):
        gptq.unpack({**gptq.pack(one), "g_idx": index}, one.scheme, (32, 64))
    tensors = {**compressed_tensors.pack(one), "weight_g_idx": index}
    with pytest.raises(InputError, match=f"weight_{said}"):
        compressed_tensors.unpack(tensors, one.scheme, (32, 64))


def test_zero_points_that_a_symmetric_scheme_has_not_are_refused() -> None:
    """Engines take the scheme's word, and would decode other weights."""
    one = weight(32, 64, QuantScheme.parse("int4-g32"), 0)
    with pytest.raises(InputError, match=r"^qzeros holds a zero point of .*says symmetric"):
        gptq.unpack(gptq.pack(one), QuantScheme.parse("int4-g32-sym"), (32, 64))


def weights_with(**changes: object) -> dict[str, Any]:
    """A configuration of compressed-tensors with other settings of its weights."""
    config = compressed_tensors.config(QuantScheme.parse("int4-g32"), [])
    config["config_groups"]["group_0"]["weights"] |= changes
    return config


@pytest.mark.parametrize(
    ("layout", "config", "said"),
    [
        (gptq, {"dynamic": {"+:.*up_proj": {"bits": 8}}}, "dynamic is .*a scheme of its own"),
        (awq, {"dynamic": {".*up_proj": {"bits": 8}}}, "dynamic is .*a scheme of its own"),
        (compressed_tensors, {"kv_cache_scheme": {"num_bits": 8}}, "kv_cache_scheme is"),
        (compressed_tensors, {"sparsity_config": {"format": "2:4"}}, "sparsity_config is"),
        (compressed_tensors, {"transform_config": {"R1": "hadamard"}}, "transform_config is"),
        (compressed_tensors, weights_with(dynamic=True), "dynamic is True"),
    ],
)
def test_settings_that_change_what_codes_mean_are_refused(
    layout: ModuleType, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        layout.scheme({**layout.config(QuantScheme.parse("int4-g32"), []), **config})


def test_scales_of_inputs_have_no_place() -> None:
    one = weight(8, 64, QuantScheme.parse("int4-g32"), 0)
    one = replace(one, input_scales=torch.ones(64, dtype=torch.float16))
    for layout in FORMATS.values():
        with pytest.raises(InputError, match="no place for scales of inputs"):
            layout.pack(one)
