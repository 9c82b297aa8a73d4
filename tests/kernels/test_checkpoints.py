"""AWQ's and GPTQ's packings: against words written by hand, and there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels.checkpoints import from_awq, from_gptq, to_awq, to_gptq
from kernels.layout import tile, untile
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight, quantize
from quantcore.scheme import QuantScheme


def word(text: str) -> int:
    """An int32 of its hexadecimal digits, the highest bits first."""
    value = int(text, 16)
    return value - 2**32 if value >= 2**31 else value


def weight(rows: int = 16, columns: int = 64, scheme: str = "int4-g32") -> QuantizedWeight:
    generator = torch.Generator().manual_seed(0)
    return quantize(torch.randn(rows, columns, generator=generator), QuantScheme.parse(scheme))


def counted() -> QuantizedWeight:
    """Output n has code n everywhere, and zero point 15 - n."""
    codes = torch.arange(8, dtype=torch.uint8)[:, None].expand(8, 32).contiguous()
    return QuantizedWeight(
        codes=codes,
        scales=torch.ones(8, 1, dtype=torch.float16),
        zeros=(15 - codes[:, :1]).contiguous(),
        scheme=QuantScheme(bits=4, group_size=None),
    )


def same(one: QuantizedWeight, other: QuantizedWeight) -> bool:
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("codes", "scales", "zeros")
    )


def test_awq_interleaves_eight_outputs() -> None:
    packed = to_awq(counted())
    assert packed["qweight"].tolist() == [[word("75316420")]] * 32
    assert packed["qzeros"].tolist() == [[word("8ACE9BDF")]]
    assert packed["scales"].shape == (1, 8)


def test_gptq_packs_eight_inputs_and_keeps_zero_points_less_one() -> None:
    packed = to_gptq(counted())
    assert packed["qweight"].tolist() == [[word(f"{n:x}" * 8) for n in range(8)]] * 4
    assert packed["qzeros"].tolist() == [[word("789ABCDE")]]
    assert to_gptq(counted(), version=2)["qzeros"].tolist() == [[word("89ABCDEF")]]
    assert packed["g_idx"].tolist() == [0] * 32


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-channel"])
def test_there_and_back_and_into_our_layout(scheme: str) -> None:
    one = weight(scheme=scheme)
    for version in (1, 2):
        assert same(from_gptq(**to_gptq(one, version=version), version=version), one)
    again = from_awq(**to_awq(one))
    assert same(again, one)
    assert torch.equal(again.dequantize(), one.dequantize())
    codes, scales, zeros = untile(tile(again))
    assert torch.equal(codes, one.codes)
    assert torch.equal(scales, one.scales)
    assert torch.equal(zeros, one.zeros)


def test_an_activation_order_is_kept_as_a_group_index() -> None:
    index = torch.randperm(64, generator=torch.Generator().manual_seed(0)) % 2
    one = replace(weight(), group_index=index)
    again = from_gptq(**to_gptq(one))
    assert again.group_index is not None
    assert torch.equal(again.group_index, index)
    assert torch.equal(again.dequantize(), one.dequantize())
    with pytest.raises(InputError, match="no group index"):
        to_awq(one)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qweight": torch.zeros(64, 3, dtype=torch.int32)}, r"qweight is torch.int32 \[64, 3\]"),
        ({"qzeros": torch.zeros(2, 2)}, r"qzeros is torch.float32 \[2, 2\]"),
        ({"qweight": torch.zeros(63, 2, dtype=torch.int32)}, "63 inputs do not divide"),
    ],
)
def test_awq_tensors_that_do_not_belong_together(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_awq(**{**to_awq(weight()), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"g_idx": torch.zeros(5, dtype=torch.int32)}, "g_idx has 5 entries from 0 to 0"),
        ({"g_idx": torch.full((64,), 2, dtype=torch.int32)}, "from 2 to 2"),
        ({"qzeros": torch.zeros(3, 2, dtype=torch.int32)}, r"qzeros is torch.int32 \[3, 2\]"),
    ],
)
def test_gptq_tensors_that_do_not_belong_together(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        from_gptq(**{**to_gptq(weight()), **changes})


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (weight(scheme="int3-g32"), "int3-g32"),
        (weight(rows=12), "12 outputs"),
        (replace(weight(), input_scales=torch.ones(64).half()), "scales kept beside"),
    ],
)
def test_weights_that_do_not_fit_are_refused(one: QuantizedWeight, said: str) -> None:
    for pack in (to_awq, to_gptq):
        with pytest.raises(InputError, match=said):
            pack(one)
