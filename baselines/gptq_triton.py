"""GPTQ's loop over the columns of one segment is a single kernel launch here.

The columns of a segment depend on one another, the rows of W do not: each program keeps the
segment of a few rows in registers and goes through its columns there. In eager mode every column
costs about eight launches, and the loop is bound by them and not by the GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS_PER_PROGRAM = 32
_HALF_EVEN = tl.constexpr(12582912.0)
"""1.5 * 2^23: its sum with |x| < 2^22 has no bits left for a fraction, and rounds half to even."""


@triton.jit  # type: ignore[untyped-decorator]
def _segment(  # type: ignore[no-untyped-def]
    remaining,  # float32 [columns, rows], row stride `rows`
    factor,  # float32 [columns, columns], upper triangular
    scales,  # float32 [columns or 1, rows]
    zeros,
    codes,  # float32 [columns, rows]
    errors,  # float32 [columns, rows]
    rows,
    grid_stride,  # 0 where all columns share one grid, else `rows`
    top_code,
    columns: tl.constexpr,
    padded: tl.constexpr,  # a power of two, at least `columns`
    tile_rows: tl.constexpr,
):
    r = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    k = tl.arange(0, padded)
    alive = r < rows
    tile = (k[:, None] < columns) & alive[None, :]
    w = tl.load(remaining + k[:, None] * rows + r[None, :], mask=tile, other=0.0)
    for j in range(columns):
        at_j = k == j
        wj = tl.sum(tl.where(at_j[:, None], w, 0.0), axis=0)
        s = tl.load(scales + j * grid_stride + r, mask=alive, other=1.0)
        z = tl.load(zeros + j * grid_stride + r, mask=alive, other=0.0)
        # Beyond a million steps the clamp decides anyway, and the rounding trick would fail.
        steps = tl.minimum(tl.maximum(tl.div_rn(wj, s), -1.0e6), 1.0e6)
        code = (steps + _HALF_EVEN) - _HALF_EVEN + z
        code = tl.minimum(tl.maximum(code, 0.0), top_code)
        u = tl.load(factor + j * columns + k, mask=k < columns, other=0.0)
        diagonal = tl.sum(tl.where(at_j, u, 0.0), axis=0)
        error = tl.div_rn(wj - (code - z) * s, diagonal)
        w -= tl.where(k > j, u, 0.0)[:, None] * error[None, :]
        tl.store(codes + j * rows + r, code, mask=alive)
        tl.store(errors + j * rows + r, error, mask=alive)


def round_segment(
    remaining: Tensor, factor: Tensor, scales: Tensor, zeros: Tensor, top_code: int
) -> tuple[Tensor, Tensor]:
    """Round the columns of a segment one after the other, each making up for those before.

    Args:
        remaining: float32 [columns, rows], the segment of W^T as compensation left it.
        factor: float32 [columns, columns], the segment's diagonal block of U.
        scales: float32 [columns, rows], or [1, rows] for one grid.
        zeros: of the same shape.
        top_code: 2^bits - 1.

    Returns:
        codes and scaled errors e_j = (w_j - q_j) / U_jj, each float32 [columns, rows].
    """
    columns, rows = remaining.shape
    codes, errors = torch.empty_like(remaining), torch.empty_like(remaining)
    _segment[(triton.cdiv(rows, _ROWS_PER_PROGRAM),)](
        remaining.contiguous(),
        factor.contiguous(),
        scales.contiguous(),
        zeros.contiguous(),
        codes,
        errors,
        rows,
        rows if len(scales) > 1 else 0,
        top_code,
        columns=columns,
        padded=triton.next_power_of_2(columns),
        tile_rows=_ROWS_PER_PROGRAM,
    )
    return codes, errors
