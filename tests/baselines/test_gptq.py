from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from baselines import gptq as module
from baselines.gptq import Order, gptq, inverse_factor
from quantcore.gram import output_error
from quantcore.grid import decode, encode, fit, quantize
from quantcore.scheme import QuantScheme


def correlated(tokens: int, features: int, seed: int) -> Tensor:
    """Inputs whose channels differ in size and depend on one another, float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=generator, dtype=torch.float64)
    sizes = torch.logspace(-1, 1, features, dtype=torch.float64)
    x = torch.randn(tokens, features, generator=generator, dtype=torch.float64) @ mix
    return x * sizes[torch.randperm(features, generator=generator)]


def naive(
    weight: Tensor, gram: Tensor, scheme: QuantScheme, order: Order, damping: float
) -> Tensor:
    """Codes by optimal brain surgeon, a column at a time; the inverse shrinks by elimination.

    No Cholesky, no blocks, no permutation of arrays: another road to the same answer, in float64.
    """
    columns = weight.shape[1]
    group = scheme.group_of(columns)
    weight = weight.clone()
    gram = gram + damping * gram.diagonal().mean() * torch.eye(columns, dtype=gram.dtype)
    inverse = torch.linalg.inv(gram)
    sequence = list(range(columns))
    if order != "off":
        sequence = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    grids: dict[int, tuple[Tensor, Tensor]] = {}
    if order == "static":
        for g in range(columns // group):
            part = weight[:, g * group : (g + 1) * group]
            grids[g] = fit(part.amin(1), part.amax(1), scheme)
    codes = torch.zeros_like(weight)
    for step, j in enumerate(sequence):
        g = j // group if order == "static" else step // group
        if g not in grids:
            part = weight[:, sequence[g * group : (g + 1) * group]]
            grids[g] = fit(part.amin(1), part.amax(1), scheme)
        scales, zeros = grids[g]
        codes[:, j] = encode(weight[:, j], scales, zeros, scheme.top_code)
        error = (weight[:, j] - decode(codes[:, j], scales, zeros)) / inverse[j, j]
        left = sequence[step + 1 :]
        weight[:, left] -= error[:, None] * inverse[j, left][None, :]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes


def matches_naive(implementation: Callable[..., tuple[object, float]], order: Order) -> None:
    """Oracle: the same codes as the naive loop, over group sizes and block sizes."""
    for seed, (scheme, block) in enumerate(
        [("int4-g16", 128), ("int3-g16", 8), ("int4-channel", 16), ("int3-g32-sym", 24)]
    ):
        x = correlated(300, 64, seed)
        gram = x.t() @ x
        weight = torch.randn(12, 64, dtype=torch.float64)
        parsed = QuantScheme.parse(scheme)
        quantized, _ = implementation(weight, gram, parsed, order=order, damping=0.01, block=block)
        codes = quantized.codes.double()  # type: ignore[attr-defined]
        assert torch.equal(codes, naive(weight, gram, parsed, order, 0.01)), scheme


@pytest.mark.parametrize("order", ["off", "on", "static"])
def test_equals_a_naive_column_loop(order: Order) -> None:
    matches_naive(gptq, order)


def test_the_naive_loop_catches_a_permuted_gram_matrix() -> None:
    def planted(weight: Tensor, gram: Tensor, *args: object, **kwargs: object) -> object:
        return gptq(weight, gram.flip(0, 1), *args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        matches_naive(planted, "static")  # type: ignore[arg-type]


def test_the_naive_loop_catches_a_transposed_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(gram: Tensor, damping: float) -> tuple[Tensor, float]:
        factor, used = inverse_factor(gram, damping)
        return factor.flip(0, 1).t(), used

    monkeypatch.setattr(module, "inverse_factor", planted)
    with pytest.raises(AssertionError):
        matches_naive(gptq, "off")


def test_the_naive_loop_catches_correlations_lost_between_blocks() -> None:
    """H without what ties the first half of the columns to the second."""

    def planted(weight: Tensor, gram: Tensor, *args: object, **kwargs: object) -> object:
        apart = gram.clone()
        apart[:32, 32:] = apart[32:, :32] = 0
        return gptq(weight, apart, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.raises(AssertionError):
        matches_naive(planted, "off")  # type: ignore[arg-type]


@pytest.mark.parametrize("scheme", ["int4-g32", "int3-g16", "int4-channel-sym"])
@pytest.mark.parametrize("order", ["off", "on", "static"])
def test_a_diagonal_gram_matrix_makes_it_rtn(scheme: str, order: Order) -> None:
    weight = torch.randn(20, 96)
    # With order "on" groups form in activation order: RTN's only if all are equally active.
    diagonal = torch.ones(96) if order == "on" else torch.rand(96) + 0.1
    parsed = QuantScheme.parse(scheme)
    quantized, _ = gptq(weight, torch.diag(diagonal), parsed, order=order)
    expected = quantize(weight, parsed)
    assert torch.equal(quantized.codes, expected.codes)
    assert torch.equal(quantized.dequantize(), expected.dequantize())


@pytest.mark.parametrize("order", ["off", "on", "static"])
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


@pytest.mark.parametrize("order", ["off", "on", "static"])
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


def test_activation_order_carries_its_groups() -> None:
    x = correlated(300, 64, 7).float()
    quantized, _ = gptq(torch.randn(8, 64), x.t() @ x, QuantScheme.parse("int4-g16"), order="on")
    assert quantized.group_index is not None
    assert quantized.group_index.bincount().tolist() == [16] * 4
    assert quantized.group_index.tolist() != sorted(quantized.group_index.tolist())
