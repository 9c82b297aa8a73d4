from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantcore import grid
from quantcore.errors import InputError
from quantcore.grid import QuantizedWeight, fit, quantize, round_to_nearest
from quantcore.scheme import QuantScheme

SCHEMES = [
    "int2-g16",
    "int3-g32",
    "int4-g16",
    "int4-g64-sym",
    "int5-g32",
    "int8-channel",
    "int6-g32-sym",
]


def half_step_holds(weight: Tensor, scheme: QuantScheme) -> None:
    """Oracle: inside its group's range no weight moves by more than half a step."""
    served = quantize(weight, scheme)
    groups = grid.grouped(weight, scheme)
    error = (grid.grouped(served.dequantize(), scheme) - groups).abs()
    scales = served.scales.float()[..., None]
    steps = groups / scales
    zeros = served.zeros.float()[..., None]
    inside = (steps >= -zeros) & (steps <= scheme.top_code - zeros)
    assert bool((error <= 0.5001 * scales.abs())[inside].all())
    # and what lies outside does so by half a step at most, or by one (symmetric: the top level)
    assert bool((error <= (1.01 if scheme.symmetric else 0.51) * scales.abs()).all())


@pytest.mark.parametrize("name", SCHEMES)
def test_no_weight_moves_by_more_than_half_a_step(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    half_step_holds(torch.randn(24, 128, generator=generator) + 0.3, QuantScheme.parse(name))


@pytest.mark.parametrize("shift", [1, -1])
def test_half_step_catches_a_zero_point_off_by_one(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return (codes - zeros - shift) * scales

    monkeypatch.setattr(grid, "decode", planted)
    with pytest.raises(AssertionError):
        half_step_holds(torch.randn(8, 64), QuantScheme.parse("int4-g32"))


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_is_reached_and_survives_a_second_rounding(bits: int) -> None:
    scheme = QuantScheme(bits=bits, group_size=2**bits)
    codes = torch.stack([torch.randperm(2**bits) for _ in range(6)])
    zeros = torch.randint(0, 2**bits, (6, 1))
    scales = (torch.rand(6, 1) + 0.01).half()
    first = QuantizedWeight(
        codes=codes.to(torch.uint8), scales=scales, zeros=zeros.to(torch.uint8), scheme=scheme
    )
    again = quantize(first.dequantize(), scheme)
    assert torch.equal(again.codes, first.codes)
    assert torch.equal(again.zeros, first.zeros)
    assert torch.allclose(again.dequantize(), first.dequantize(), rtol=1e-3)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(
    "group",
    [
        torch.zeros(64),
        torch.full((64,), 0.7),
        torch.full((64,), -0.7),
        torch.full((64,), 1e-9),
        torch.full((64,), 3e38),
        torch.linspace(-1, 1, 64) * 3e38,
        torch.cat([torch.zeros(63), torch.tensor([65504.0 * 20])]),
        torch.linspace(0, 1e-40, 64),
    ],
    ids=["zero", "constant", "negative", "tiny", "huge", "span", "overflow", "denormal"],
)
def test_extreme_groups_stay_finite(name: str, group: Tensor) -> None:
    served = quantize(group[None], QuantScheme.parse(name)).dequantize()
    assert bool(torch.isfinite(served).all())
    if float(group.abs().max()) == 0:
        assert torch.equal(served, group[None])


@pytest.mark.parametrize("constant", [0.7, -0.7])
def test_a_constant_group_is_kept(constant: float) -> None:
    weight = torch.full((1, 64), constant)
    assert torch.allclose(
        quantize(weight, QuantScheme.parse("int4-g64")).dequantize(), weight, rtol=1e-3
    )


def test_scales_are_rounded_before_codes() -> None:
    weight = torch.randn(16, 128)
    scheme = QuantScheme.parse("int8-g128")
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    scales, zeros = fit(low, high, scheme)
    assert torch.equal(scales, scales.half().float())
    expected = torch.round(weight / scales).add(zeros).clamp(0, 255)
    unrounded = (high.clamp(min=0) - low.clamp(max=0)) / 255
    late = torch.round(weight / unrounded).add(torch.round(-low / unrounded)).clamp(0, 255)
    codes = quantize(weight, scheme).codes.float()
    assert torch.equal(codes, expected)
    assert not torch.equal(codes, late)  # the order matters at 8 bits


def test_ranges_include_zero() -> None:
    weight = torch.rand(4, 32) + 5
    quantized = quantize(weight, QuantScheme.parse("int4-g32"))
    assert torch.equal(quantized.zeros, torch.zeros(4, 1, dtype=torch.uint8))


@pytest.mark.parametrize("name", SCHEMES)
def test_the_short_form_rounds_alike(name: str) -> None:
    weight = torch.randn(10, 128)
    scheme = QuantScheme.parse(name)
    assert torch.equal(round_to_nearest(weight, scheme), quantize(weight, scheme).dequantize())


def test_symmetric_zero_point_is_the_middle() -> None:
    quantized = quantize(torch.randn(4, 32), QuantScheme.parse("int4-g32-sym"))
    assert bool((quantized.zeros == 8).all())


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_symmetric_grid_has_its_largest_weight_on_code_0(bits: int) -> None:
    scheme = QuantScheme(bits=bits, group_size=32, symmetric=True)
    weight = torch.rand(2, 32) - 0.5
    weight[0, 3], weight[1, 5] = -1.0, 1.0  # the scale is exact in float16
    quantized = quantize(weight, scheme)
    step = 0.5 ** (bits - 1)
    assert quantized.scales.tolist() == [[step], [-step]]
    assert (int(quantized.codes[0, 3]), int(quantized.codes[1, 5])) == (0, 0)
    assert quantized.dequantize()[[0, 1], [3, 5]].tolist() == [-1.0, 1.0]


def test_a_symmetric_grid_ends_a_step_short_on_the_other_side() -> None:
    weight = torch.tensor([[-1.0, 1.0, 0.9375, 0.9374, 0.03]])
    served = quantize(weight, QuantScheme.parse("int4-channel-sym")).dequantize()
    assert served.tolist() == [[-1.0, 0.875, 0.875, 0.875, 0.0]]


def test_a_symmetric_grids_mirror_image_is_as_good() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    scheme = QuantScheme.parse("int3-g32-sym")
    assert torch.equal(round_to_nearest(-weight, scheme), -round_to_nearest(weight, scheme))


def test_only_symmetric_grids_are_of_another_rule_than_before() -> None:
    assert grid.version_of(QuantScheme.parse("int4-g32")) is None
    assert grid.version_of(QuantScheme.parse("int4-g32-sym")) == grid.SYMMETRIC_VERSION


@pytest.mark.parametrize("name", ["int4-g128", "int3-g32-sym", "int8-channel", "int2-channel-sym"])
def test_names_round_trip(name: str) -> None:
    assert QuantScheme.parse(name).name == name


@pytest.mark.parametrize(
    "name", ["int1-g128", "int9-g128", "int4", "int4-g0", "INT4-g128", "int4-g128-asym"]
)
def test_impossible_schemes_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        QuantScheme.parse(name)


def test_stored_bits() -> None:
    assert QuantScheme.parse("int4-g128").stored_bits(8, 256) == 8 * 256 * 4 + 8 * 2 * 20
    assert QuantScheme.parse("int3-channel-sym").stored_bits(8, 256) == 8 * 256 * 3 + 8 * 16
