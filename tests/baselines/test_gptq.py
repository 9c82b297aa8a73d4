from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from baselines import gptq as module
from baselines.gptq import Order, column_order, gptq, inverse_factor
from quantcore.gram import output_error
from quantcore.grid import QuantizedWeight, decode, encode, fit, quantize
from quantcore.scheme import QuantScheme

ORDERS = get_args(Order)
CHANNEL = QuantScheme.parse("int4-channel")


def correlated(tokens: int, features: int, seed: int) -> Tensor:
    """Inputs whose channels differ in size and depend on one another, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    sizes = torch.logspace(-1, 1, features, dtype=torch.float64)
    x = torch.randn(tokens, features, generator=generator, dtype=torch.float64) @ mix
    return x * sizes[torch.randperm(features, generator=generator)]


def naive(
    weight: Tensor, gram: Tensor, scheme: QuantScheme, order: Order, damping: float
) -> tuple[Tensor, Tensor]:
    """Codes and served weights by optimal brain surgeon, a column at a time, in float64.

    The inverse shrinks by elimination. No Cholesky, no blocks, no permutation of arrays: another
    road to the same answer.
    """
    columns = weight.shape[1]
    group = scheme.group_of(columns)
    weight = weight.clone()
    gram = gram + damping * gram.diagonal().mean() * torch.eye(columns, dtype=gram.dtype)
    inverse = torch.linalg.inv(gram)
    activity = gram.diagonal().tolist()
    sequence = list(range(columns))
    if order in ("on", "static"):
        sequence.sort(key=lambda j: -activity[j])
    if order == "group":
        blocks = [sequence[start : start + group] for start in range(0, columns, group)]
        for block in blocks:
            block.sort(key=lambda j: -activity[j])
        blocks.sort(key=lambda block: -activity[block[0]])
        sequence = [j for block in blocks for j in block]
    grids: dict[int, tuple[Tensor, Tensor]] = {}
    if order == "static":
        for g in range(columns // group):
            part = weight[:, g * group : (g + 1) * group]
            grids[g] = fit(part.amin(1), part.amax(1), scheme)
    codes, served = torch.zeros_like(weight), torch.zeros_like(weight)
    for step, j in enumerate(sequence):
        g = step // group if order == "on" else j // group
        if g not in grids:
            part = weight[:, sequence[step : step + group]]
            grids[g] = fit(part.amin(1), part.amax(1), scheme)
        scales, zeros = grids[g]
        codes[:, j] = encode(weight[:, j], scales, zeros, scheme.top_code)
        served[:, j] = decode(codes[:, j], scales, zeros)
        error = (weight[:, j] - served[:, j]) / inverse[j, j]
        left = sequence[step + 1 :]
        weight[:, left] -= error[:, None] * inverse[j, left][None, :]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes, served


def matches_naive(
    implementation: Callable[..., tuple[QuantizedWeight, float]], order: Order
) -> None:
    """Oracle: the same codes and weights as the naive loop, over group sizes and block sizes."""
    for seed, (scheme, block) in enumerate(
        [("int4-g16", 128), ("int3-g16", 8), ("int4-channel", 16), ("int3-g32-sym", 24)]
    ):
        x = correlated(300, 64, seed)
        gram = x.t() @ x
        weight = torch.randn(12, 64, dtype=torch.float64)
        parsed = QuantScheme.parse(scheme)
        quantized, _ = implementation(weight, gram, parsed, order=order, damping=0.01, block=block)
        codes, served = naive(weight, gram, parsed, order, 0.01)
        assert torch.equal(quantized.codes.double(), codes), scheme
        assert torch.equal(quantized.dequantize(), served.float()), scheme


@pytest.mark.parametrize("order", ORDERS)
def test_equals_a_naive_column_loop(order: Order) -> None:
    matches_naive(gptq, order)


def test_the_naive_loop_catches_a_permuted_gram_matrix() -> None:
    def planted(
        weight: Tensor, gram: Tensor, *args: object, **kwargs: object
    ) -> tuple[QuantizedWeight, float]:
        return gptq(weight, gram.flip(0, 1), *args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        matches_naive(planted, "static")


def test_the_naive_loop_catches_a_transposed_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(gram: Tensor, damping: float) -> tuple[Tensor, float]:
        factor, used = inverse_factor(gram, damping)
        return factor.flip(0, 1).t(), used

    monkeypatch.setattr(module, "inverse_factor", planted)
    with pytest.raises(AssertionError):
        matches_naive(gptq, "off")


def test_the_naive_loop_catches_correlations_lost_between_blocks() -> None:
    """H without what ties the first half of the columns to the second."""

    def planted(
        weight: Tensor, gram: Tensor, *args: object, **kwargs: object
    ) -> tuple[QuantizedWeight, float]:
        apart = gram.clone()
        apart[:32, 32:] = apart[32:, :32] = 0
        return gptq(weight, apart, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        matches_naive(planted, "off")


@pytest.mark.parametrize("scheme", ["int4-g32", "int3-g16", "int4-channel-sym"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_diagonal_gram_matrix_makes_it_rtn(scheme: str, order: Order) -> None:
    weight = torch.randn(20, 96)
    # With order "on" groups form in activation order: RTN's only if all are equally active.
    diagonal = torch.ones(96) if order == "on" else torch.rand(96) + 0.1
    parsed = QuantScheme.parse(scheme)
    quantized, _ = gptq(weight, torch.diag(diagonal), parsed, order=order)
    expected = quantize(weight, parsed)
    assert torch.equal(quantized.codes, expected.codes)
    assert torch.equal(quantized.dequantize(), expected.dequantize())


@pytest.mark.parametrize("order", ORDERS)
def test_it_loses_less_than_rtn(order: Order) -> None:
    x = correlated(400, 128, 3).float()
    gram, weight = x.t() @ x, torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    scheme = QuantScheme.parse("int3-g64")
    quantized, _ = gptq(weight, gram, scheme, order=order)
    ours = output_error(weight - quantized.dequantize(), gram)
    rtn = output_error(weight - quantize(weight, scheme).dequantize(), gram)
    assert float(ours) < 0.9 * float(rtn)


def test_the_factor_is_of_the_inverse() -> None:
    x = correlated(200, 40, 1)
    gram = x.t() @ x
    factor, used = inverse_factor(gram, 0.01)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(40, dtype=gram.dtype)
    assert used == 0.01
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.t() @ factor @ damped, torch.eye(40, dtype=gram.dtype), atol=1e-8)


def test_damping_is_raised_until_the_factorization_holds() -> None:
    x = torch.randn(4, 32)
    indefinite = x.t() @ x - 0.5 * torch.eye(32)
    factor, used = inverse_factor(indefinite, 0.001)
    assert used > 0.001
    assert bool(torch.isfinite(factor).all())


def test_hopeless_statistics_are_an_error() -> None:
    with pytest.raises(ArithmeticError, match="not positive definite"):
        inverse_factor(torch.full((8, 8), torch.nan), 0.01)


@pytest.mark.parametrize("order", ORDERS)
def test_dead_inputs_are_rounded_to_zero_and_change_nothing_else(order: Order) -> None:
    x = correlated(300, 64, 5).float()
    dead = torch.tensor([3, 17, 40])
    x[:, dead] = 0
    gram, weight = x.t() @ x, torch.randn(16, 64)
    quantized, _ = gptq(weight, gram, QuantScheme.parse("int4-g32"), order=order)
    served = quantized.dequantize()
    assert bool(torch.isfinite(served).all())
    assert torch.equal(served[:, dead], torch.zeros(16, 3))


def test_all_inputs_dead() -> None:
    quantized, _ = gptq(torch.randn(4, 32), torch.zeros(32, 32), QuantScheme.parse("int4-g32"))
    assert torch.equal(quantized.dequantize(), torch.zeros(4, 32))


@pytest.mark.parametrize("order", [order for order in ORDERS if order != "on"])
def test_other_orders_keep_groups_of_consecutive_inputs(order: Order) -> None:
    x = correlated(300, 64, 7).float()
    quantized, _ = gptq(torch.randn(8, 64), x.t() @ x, QuantScheme.parse("int4-g16"), order=order)
    assert quantized.group_index is None


def test_groups_go_by_their_most_active_column_and_columns_by_their_own() -> None:
    activity = torch.tensor([1.0, 4.0, 9.0, 0.5, 3.0, 2.0])
    assert column_order(activity, 2, "group").tolist() == [2, 3, 1, 0, 4, 5]
    assert column_order(activity, 6, "group").tolist() == column_order(activity, 6, "on").tolist()


def test_one_group_needs_no_index_in_any_order() -> None:
    x = correlated(300, 64, 7).float()
    for order in ORDERS:
        quantized, _ = gptq(torch.randn(8, 64), x.t() @ x, CHANNEL, order=order)
        assert quantized.group_index is None


def test_activation_order_carries_its_groups() -> None:
    x = correlated(300, 64, 7).float()
    quantized, _ = gptq(torch.randn(8, 64), x.t() @ x, QuantScheme.parse("int4-g16"), order="on")
    assert quantized.group_index is not None
    assert quantized.group_index.bincount().tolist() == [16] * 4
    assert quantized.group_index.tolist() != sorted(quantized.group_index.tolist())
