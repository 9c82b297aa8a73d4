"""The article's examples, AutoAWQ's shapes, and scales by layer type."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from awq_impl.article import ArticleAWQ, channel_importance
from awq_impl.autoawq import NIBBLE_ORDER, autoawq_settings, autoawq_shapes
from awq_impl.method import AWQ
from lab.lessons import (
    WatchedMethod,
    contributions,
    error_share_of_top,
    error_with_top_scaled,
    expected_squared_error,
    made_up_layer,
    relative_errors,
    rounding_costs,
    smooth_scales,
    stats_of,
    top_channels,
)
from quantcore.calibration import StatsStore, calibrate
from quantcore.discovery import discover
from quantcore.errors import InputError
from quantcore.gram import InputStats, per_row_output_error
from quantcore.grid import round_to_nearest
from quantcore.quantize import Snapshot, quantize_model
from quantcore.scheme import QuantScheme
from tests.conftest import tiny_model

INT4 = QuantScheme.parse("int4-g128")


def layer(seed: int) -> tuple[Tensor, Tensor, InputStats]:
    """The made-up layer and its statistics."""
    weight, x = made_up_layer(seed=seed)
    return weight, x, stats_of(x)


def test_salience_examples() -> None:
    weights, inputs = torch.tensor([0.20, 1.20]), torch.tensor([20.0, 0.5])
    assert contributions(weights, inputs).tolist() == pytest.approx([4.0, 0.6])
    rounded = torch.tensor([0.10, 1.10])
    assert rounding_costs(weights, rounded, inputs).tolist() == pytest.approx([2.0, 0.05])
    exercise = contributions(torch.tensor([0.3, 1.0, -0.2]), torch.tensor([15.0, 0.8, 12]))
    assert exercise.tolist() == pytest.approx([4.5, 0.8, 2.4])
    assert exercise.argsort(descending=True).tolist() == [0, 2, 1]


def test_expected_error_is_the_measured_one_where_channels_are_independent() -> None:
    weight, x, stats = layer(0)
    error = weight - round_to_nearest(weight, INT4)
    expected = expected_squared_error(error, channel_importance(stats))
    measured = (x @ error.t()).square().mean(0)
    assert torch.allclose(expected, measured, rtol=0.1)
    correlated = x + x.roll(1, dims=1)
    gram = correlated.t() @ correlated
    exact = per_row_output_error(error, gram) / len(x)
    assert torch.allclose(exact, (correlated @ error.t()).square().mean(0), rtol=1e-3)
    diagonal = expected_squared_error(error, gram.diagonal() / len(x))
    assert not torch.allclose(diagonal, exact, rtol=0.1)


def test_the_top_channels_share_of_the_error() -> None:
    importance = torch.ones(200)
    importance[[3, 50]] = 99.0
    error = torch.full((4, 200), 0.1)
    assert sorted(top_channels(importance).tolist()) == [3, 50]
    assert top_channels(torch.rand(20)).numel() == 1
    assert error_share_of_top(error, importance) == pytest.approx(0.5)


def test_scaling_the_top_helps_up_to_a_point() -> None:
    weight, _, stats = layer(1)
    importance = channel_importance(stats)

    def at(factor: float) -> float:
        return error_with_top_scaled(weight, stats, INT4, factor=factor, importance=importance)

    assert at(1) == 1
    assert at(2) < 0.5
    assert at(2**10) > 2  # now they set every range


def test_awq_trades_weight_error_for_output_error() -> None:
    weight, x, stats = layer(2)
    scales = torch.ones(256)
    scales[top_channels(channel_importance(stats))] = 4.0
    rtn = relative_errors(weight, round_to_nearest(weight, INT4), stats)
    awq = relative_errors(weight, round_to_nearest(weight * scales, INT4) / scales, stats)
    assert awq.output < 0.5 * rtn.output
    assert awq.weight > rtn.weight
    error = weight - round_to_nearest(weight, INT4)
    direct = (x @ error.t()).square().sum() / (x @ weight.t()).square().sum()
    assert rtn.output == pytest.approx(float(direct), rel=1e-3)
    assert rtn.weight == pytest.approx(float(error.norm() / weight.norm()) ** 2, rel=1e-4)


def test_smoothquant_meets_in_the_middle() -> None:
    weight, x, _ = layer(3)
    largest = x.abs().amax(0)
    scales = smooth_scales(largest, weight)
    assert torch.allclose(largest / scales, (weight * scales).abs().amax(0), rtol=1e-5)
    assert torch.allclose((x / scales) @ (weight * scales).t(), x @ weight.t(), atol=1e-4)
    assert torch.allclose(smooth_scales(largest, weight, strength=1.0), largest)
    dead = smooth_scales(torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 0.0]]))
    assert bool((torch.isfinite(dead) & (dead > 0)).all())


def test_scales_by_layer_type() -> None:
    model = tiny_model("llama")
    structure = discover(model)
    stats = StatsStore()
    tokens = torch.arange(8 * 32).view(8, 32) * 13 % 160
    calibrate(model, structure, tokens, stats, batch_size=4)
    scheme = QuantScheme.parse("int4-g16")
    snapshot = Snapshot(structure)

    plain = quantize_model(structure, ArticleAWQ(), scheme, stats=stats).relative_losses
    snapshot.restore()
    kept = WatchedMethod(ArticleAWQ())
    watched = quantize_model(structure, kept, scheme, stats=stats).relative_losses
    assert watched == plain
    snapshot.restore()
    summaries = kept.summaries()
    assert set(summaries) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert summaries["down_proj"].count == 2 * 96
    for summary in summaries.values():
        assert summary.geometric_mean == pytest.approx(1, abs=1e-3)
        assert 0 < summary.smallest <= summary.median <= summary.largest

    folded = WatchedMethod(AWQ())
    quantize_model(structure, folded, scheme, stats=stats)
    assert set(folded.summaries()) == {
        "q_proj+k_proj+v_proj", "o_proj", "gate_proj+up_proj", "down_proj",
    }  # fmt: skip
    assert (folded.name, folded.calibration) == ("awq", "shared")
    assert folded.settings() == AWQ().settings()


def test_autoawq_shapes_are_transposed_and_packed_along_the_outputs() -> None:
    stored = autoawq_shapes(4096, 11008, 128)
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        "qweight": (11008, 512),
        "qzeros": (86, 512),
        "scales": (86, 4096),
    }
    assert [tensor.dtype for tensor in stored.values()] == [torch.int32, torch.int32, torch.float16]
    # Four bits a weight, twenty a group: exactly what the scheme counts.
    assert sum(tensor.bits for tensor in stored.values()) == INT4.stored_bits(4096, 11008)
    assert sorted(NIBBLE_ORDER) == list(range(8))


@pytest.mark.parametrize(
    ("n", "k", "group", "word"), [(64, 100, 32, "100"), (60, 128, 32, "60"), (64, 128, 0, "of 0")]
)
def test_shapes_that_autoawq_cannot_store(n: int, k: int, group: int, word: str) -> None:
    with pytest.raises(InputError, match=word):
        autoawq_shapes(n, k, group)


def test_autoawq_settings() -> None:
    assert autoawq_settings(INT4) == {
        "zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM",
    }  # fmt: skip
    symmetric = autoawq_settings(QuantScheme.parse("int4-channel-sym"))
    assert (symmetric["zero_point"], symmetric["q_group_size"]) == (False, -1)
    with pytest.raises(InputError, match="int3-g128"):
        autoawq_settings(QuantScheme.parse("int3-g128"))
