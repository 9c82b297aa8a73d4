"""The Gram matrix is what calibration keeps of an input; every method's loss is read from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InputStats:
    """An input's statistics are sums over every calibration token x of a tensor with K channels."""

    gram: Tensor
    """H = X^T X, float32 [K, K]; not divided by the token count."""
    mean_abs: Tensor
    """mean |x| per channel, float32 [K]: AWQ's salience."""
    tokens: int
    """Rows of X."""

    def folded(self, scales: Tensor) -> InputStats:
        """Give the statistics of ``x / scales``: S^-1 H S^-1 and mean |x| / s."""
        return InputStats(
            gram=self.gram / scales[:, None] / scales[None, :],
            mean_abs=self.mean_abs / scales,
            tokens=self.tokens,
        )

    def diagonal_blocks(self, group_size: int) -> Tensor:
        """Give the G x G blocks on H's diagonal, [K/G, G, G]."""
        groups = self.gram.shape[0] // group_size
        index = torch.arange(groups, device=self.gram.device)
        return self.gram.view(groups, group_size, groups, group_size)[index, :, index, :]


@contextmanager
def tensor_cores(wanted: bool) -> Iterator[None]:
    """Let a GPU multiply float32 in TF32: 11 bits of each factor, sums in float32.

    It is exact for inputs that were float16 or bfloat16 to begin with. For losses it is off by some
    3e-5 of them, where candidates of a search differ by percents; what is reported never uses it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def output_error(error: Tensor, gram: Tensor) -> Tensor:
    """Give ``||X E^T||_F^2 = tr(E H E^T)`` for weight errors E [N, K] and H [K, K]; a scalar."""
    return per_row_output_error(error, gram).sum()


def per_row_output_error(error: Tensor, gram: Tensor) -> Tensor:
    """Give the share of every output channel in `output_error`, [N].

    H is symmetric, so what lies below its diagonal blocks is what lies above: N K^2 (1 + 1/8)
    operations where the whole product would take 2 N K^2.
    """
    total = error.new_zeros(error.shape[0])
    for start, stop in _column_blocks(gram.shape[0]):
        own = error[:, start:stop]
        product = own @ gram[start:stop, start:stop]
        if start:
            product.addmm_(error[:, :start], gram[:start, start:stop], alpha=2)
        total += (product * own).sum(1)
    return total


def add_products(gram: Tensor, x: Tensor) -> None:
    """Add X^T X to the upper block triangle of ``gram`` [K, K], in place; X is [tokens, K]."""
    for start, stop in _column_blocks(gram.shape[0]):
        gram[:stop, start:stop].addmm_(x[:, :stop].t(), x[:, start:stop])


def mirror(gram: Tensor) -> Tensor:
    """Complete a symmetric matrix from its upper triangle, [K, K]."""
    upper = gram.triu()
    return upper + upper.triu(1).t()


def symmetric_flop(rows: int, columns: int) -> float:
    """Count operations of these functions: errors [N, K] with H [K, K], or a Gram matrix [K, K]."""
    return 2.0 * rows * sum(stop * (stop - start) for start, stop in _column_blocks(columns))


def _column_blocks(columns: int) -> list[tuple[int, int]]:
    """Cut eight blocks of columns, or fewer where they would be too narrow to multiply fast."""
    width = max(256, -(-columns // 8))
    return [(start, min(start + width, columns)) for start in range(0, columns, width)]
