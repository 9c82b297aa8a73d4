"""The article's own AWQ: scales per weight group, kept beside the codes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awq_impl.article import (
    ArticleAWQ,
    awq_dequantize,
    awq_quantize,
    channel_importance,
    group_scales,
    search_group_scales,
    within_group_losses,
)
from lab.lessons import stats_of
from quantcore.calibration import StatsStore, calibrate
from quantcore.discovery import discover
from quantcore.errors import InputError
from quantcore.gram import InputStats
from quantcore.grid import quantize, round_to_nearest
from quantcore.quantize import quantize_model
from quantcore.scheme import QuantScheme
from tests.conftest import tiny_model

SCHEMES = ["int4-g32", "int3-g16", "int3-channel", "int4-g32-sym"]


def salient_case(seed: int, *, size: float = 30) -> tuple[Tensor, InputStats]:
    """Weights [24, 96] and correlated inputs of which a few channels are large."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(500, 96, generator=generator)
    x = x + 0.5 * x.roll(1, dims=1)
    x[:, torch.randperm(96, generator=generator)[:5]] *= size
    return torch.randn(24, 96, generator=generator), stats_of(x)


def direct_loss(weight: Tensor, served: Tensor, x: Tensor) -> float:
    return float((x @ (weight - served).t()).square().sum())


def test_importance_is_the_mean_square() -> None:
    x = torch.randn(77, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(12.0)
    assert torch.allclose(channel_importance(stats_of(x)), x.square().mean(0), rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(4))
def test_no_group_loses_to_rtn(scheme: str, seed: int) -> None:
    weight, stats = salient_case(seed)
    parsed = QuantScheme.parse(scheme)
    choice = search_group_scales(weight, stats, parsed)
    blocks = stats.diagonal_blocks(parsed.group_of(96))
    rtn = within_group_losses(round_to_nearest(weight, parsed) - weight, blocks)
    served = awq_dequantize(awq_quantize(weight, choice.scales, parsed))
    found = within_group_losses(served - weight, blocks)
    assert torch.allclose(choice.rtn_losses, rtn, rtol=1e-4)
    assert torch.allclose(choice.losses, found, rtol=1e-3)  # what is served has this loss
    assert bool((choice.losses <= choice.rtn_losses).all())
    assert float(choice.losses.sum()) < float(choice.rtn_losses.sum())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_equals_a_naive_loop_over_groups(scheme: str) -> None:
    """Each group on its own, its loss by running its inputs through its weights."""
    generator = torch.Generator().manual_seed(7)
    sizes = (0.1 + torch.rand(96, generator=generator)).pow(2)
    x = 20 * sizes * torch.randn(200, 96, generator=generator)
    weight = torch.randn(24, 96, generator=generator)
    parsed = QuantScheme.parse(scheme)
    size = parsed.group_of(96)
    choice = search_group_scales(weight, stats_of(x), parsed, steps=10)
    importance = channel_importance(stats_of(x))
    alone = QuantScheme(bits=parsed.bits, group_size=None, symmetric=parsed.symmetric)
    for number, start in enumerate(range(0, 96, size)):
        part, inputs = weight[:, start : start + size], x[:, start : start + size]
        mean_square = importance[start : start + size]
        losses = []
        for step in range(11):
            # To the last bit: a weight halfway between two codes turns on the scale's rounding.
            scales = group_scales(mean_square, step / 10, size, torch.float16)
            plain = mean_square ** (step / 10)
            assert torch.allclose(scales, plain / plain.log().mean().exp(), rtol=1e-3)
            served = quantize(part * scales, alone).dequantize() / scales
            losses.append(direct_loss(part, served, inputs))
        best = min(range(11), key=losses.__getitem__)
        assert float(choice.losses[number]) == pytest.approx(losses[best], rel=2e-3)
        assert losses[round(float(choice.ratios[number]) * 10)] == pytest.approx(
            losses[best], rel=2e-3
        )
    assert len({round(float(r), 3) for r in choice.ratios}) > 1 or len(choice.ratios) == 1


def test_flat_importance_leaves_the_weights_alone() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    flat = InputStats(gram=9 * torch.eye(64), mean_abs=torch.ones(64), tokens=3)
    choice = search_group_scales(weight, flat, QuantScheme.parse("int4-g16"))
    assert torch.equal(choice.scales, torch.ones(64))
    assert torch.equal(choice.ratios, torch.zeros(4))


def test_the_identity_wins_where_every_other_ratio_loses() -> None:
    """A grid of its own holds these weights exactly; whatever is scaled falls off it."""
    levels = torch.arange(16.0).repeat(4, 2)
    gram = torch.diag(torch.logspace(-2, 2, 32))
    stats = InputStats(gram=gram, mean_abs=torch.ones(32), tokens=1)
    choice = search_group_scales(levels, stats, QuantScheme.parse("int4-g16"))
    assert torch.equal(choice.scales, torch.ones(32))
    assert float(choice.losses.sum()) == 0


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5, 1.0])
def test_scales_are_normalised_once(ratio: float) -> None:
    importance = torch.rand(64, generator=torch.Generator().manual_seed(0)) * 50 + 0.1
    scales = group_scales(importance, ratio, 16, torch.float16)
    assert torch.allclose(scales.view(4, 16).log().mean(-1), torch.zeros(4), atol=1e-3)
    spread = importance.view(4, 16).amax(-1) / importance.view(4, 16).amin(-1)
    found = scales.view(4, 16).amax(-1) / scales.view(4, 16).amin(-1)
    assert torch.allclose(found, spread**ratio, rtol=2e-3)
    assert torch.equal(scales, scales.half().float())
    if ratio == 0:
        assert torch.equal(scales, torch.ones(64))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dead_channels_get_scales_that_can_be_stored(scheme: str) -> None:
    weight, stats = salient_case(1)
    gram = stats.gram.clone()
    gram[:40] = gram[:, :40] = 0  # a whole group of 32 and a part of the next
    parsed = QuantScheme.parse(scheme)
    dead = InputStats(gram=gram, mean_abs=stats.mean_abs, tokens=500)
    choice = search_group_scales(weight, dead, parsed)
    assert bool(torch.isfinite(choice.scales.half()).all())
    assert float(choice.scales.half().min()) > 0
    assert bool(torch.isfinite(awq_dequantize(awq_quantize(weight, choice.scales, parsed))).all())
    nothing = InputStats(gram=torch.zeros(96, 96), mean_abs=torch.zeros(96), tokens=500)
    assert torch.equal(search_group_scales(weight, nothing, parsed).scales, torch.ones(96))


@pytest.mark.parametrize("size", [1e-4, 1e5])
def test_inputs_of_any_size_do(size: float) -> None:
    weight, stats = salient_case(2, size=size)
    scheme = QuantScheme.parse("int4-g32")
    choice = search_group_scales(weight, stats, scheme)
    served = awq_dequantize(awq_quantize(weight, choice.scales, scheme))
    assert bool(torch.isfinite(served).all())
    assert bool((choice.losses <= choice.rtn_losses).all())


def test_nan_statistics_are_an_error() -> None:
    weight, stats = salient_case(3)
    broken = InputStats(gram=stats.gram * torch.nan, mean_abs=stats.mean_abs, tokens=500)
    with pytest.raises(ArithmeticError):
        search_group_scales(weight, broken, QuantScheme.parse("int4-g32"))


def test_the_stored_scales_divide_exactly_what_was_multiplied() -> None:
    """With scales that float16 does not hold, weights on the grid still come back untouched."""
    scales = torch.full((32,), 3.14159)
    stored = scales.half().float()
    assert not torch.equal(stored, scales)
    levels = torch.arange(16.0).repeat(4, 2) / stored
    scheme = QuantScheme.parse("int4-g16")
    quantized = awq_quantize(levels, scales, scheme)
    assert quantized.input_scales is not None
    assert quantized.input_scales.dtype == torch.float16
    assert torch.equal(awq_dequantize(quantized), levels)
    assert not torch.allclose(levels * scales, levels * stored, rtol=1e-5)


def test_dequantizing_is_the_formula() -> None:
    weight, stats = salient_case(4)
    scheme = QuantScheme.parse("int4-g32")
    scales = search_group_scales(weight, stats, scheme).scales
    q = awq_quantize(weight, scales, scheme)
    by_hand = (
        (q.codes.float() - q.zeros.float().repeat_interleave(32, 1))
        * q.scales.float().repeat_interleave(32, 1)
        / scales
    )
    assert torch.equal(awq_dequantize(q), by_hand)


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e6, 1e-9, float("nan")])
def test_scales_that_cannot_be_stored_are_refused(bad: float) -> None:
    scales = torch.ones(32)
    scales[5] = bad
    with pytest.raises(InputError, match="channel 5"):
        awq_quantize(torch.ones(4, 32), scales, QuantScheme.parse("int4-g16"))


@pytest.mark.parametrize("scheme", ["int4-g16", "int3-channel"])
def test_a_whole_model(scheme: str) -> None:
    """Its within-group loss lowers what the model's linears lose; nothing else is touched."""
    model = tiny_model("opt")
    tokens = torch.arange(8 * 32).view(8, 32) * 13 % 160
    structure = discover(model)
    stats = StatsStore()
    calibrate(model, structure, tokens, stats, batch_size=4)
    norm = structure.blocks[0].module.self_attn_layer_norm.weight.clone()
    parsed = QuantScheme.parse(scheme)
    report = quantize_model(structure, ArticleAWQ(), parsed, stats=stats)
    assert torch.equal(structure.blocks[0].module.self_attn_layer_norm.weight, norm)
    assert len(report.relative_losses) == 12
    assert max(report.relative_losses.values()) < 0.1
    assert bool(torch.isfinite(model(tokens).logits).all())


def test_weights_are_multiplied_by_the_scales_as_stored() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 64, generator=generator)
    scales = 0.5 + torch.rand(64, generator=generator)
    scheme = QuantScheme.parse("int8-g16")
    found = awq_quantize(weight, scales, scheme).codes
    assert torch.equal(found, quantize(weight * scales.half().float(), scheme).codes)
    assert not torch.equal(found, quantize(weight * scales, scheme).codes)


def test_a_few_dead_channels_hardly_move_the_others() -> None:
    importance = torch.ones(16)
    importance[3] = 0
    scales = group_scales(importance, 1.0, 16, torch.float16)
    assert float(scales[0]) == pytest.approx(1e8 ** (1 / 16), rel=0.01)


def test_a_few_live_channels_keep_scales_that_float16_holds() -> None:
    importance = torch.zeros(16)
    importance[3] = 5
    scales = group_scales(importance, 1.0, 16, torch.float16)
    assert float(scales[3]) == 2**15
    assert float(scales[0]) >= 2**-14
