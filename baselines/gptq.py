"""GPTQ (arXiv 2210.17323) rounds column by column and lets the columns to come make up for errors.

With H = X^T X and U the upper triangular factor of its inverse, H^-1 = U^T U, rounding column j
of W with error e_j = (w_j - q_j) / U_jj changes the columns k > j by  w_k -= e_j U_jk  (step 3 of
the paper's Algorithm 1). Columns go in blocks of 128: inside a block they are updated one by one,
the columns after it once per block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from quantcore.grid import QuantizedWeight, fit, grouped, steps_from_zero
from quantcore.method import CalibrationKind, Extra, GroupTask, Work
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup

Order = Literal["static", "group", "off", "on"]
"""``static``: most active column first; grids are fitted before any rounding. ``group``: groups go
by their most active column, and columns within a group by their own activity (group-aware
reordering, arXiv 2505.14638); a grid is fitted when its group is due. ``off``: from left to right.
In these three a group is G consecutive inputs. ``on``: most active first, and groups form in that
order (GPTQ's ``desc_act``), so every column carries its group's index."""


@dataclass(frozen=True, kw_only=True)
class GPTQ:
    """GPTQ reads inputs of the original model (``gptq``) or of the quantized one (``gptq+seq``).

    Attributes:
        sequential: statistics follow the quantized blocks before, as published; a calibration
            pass of its own. Otherwise the shared pass serves.
        order: which column is rounded when, the most active having the largest H_jj; see `Order`.
            The default is the best of those whose groups are consecutive inputs, which is what
            engines serve (``results/reference/gptq-order``).
        damping: what is added to H's diagonal, as a share of its mean.
        block: columns per lazy update.
    """

    sequential: bool = False
    order: Order = "static"
    damping: float = 0.01
    block: int = 128

    @property
    def name(self) -> str:
        """Give the name that the user types."""
        order = {"static": "", "on": "-actorder"}.get(self.order, f"-{self.order}")
        return f"gptq{order}+seq" if self.sequential else f"gptq{order}"

    @property
    def calibration(self) -> CalibrationKind:
        """Say which statistics are wanted."""
        return "sequential" if self.sequential else "shared"

    @property
    def extras(self) -> frozenset[Extra]:
        """Name what weights keep beside codes, scales and zero points."""
        return frozenset({"group_index"} if self.order == "on" else ())

    def settings(self) -> dict[str, object]:
        """Give what decides the result: order, damping and block size."""
        return {"order": self.order, "damping": self.damping, "block": self.block}

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Fold nothing: GPTQ does not scale."""
        return None

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Round all linears of the group at once: their rows share H, and so every step."""
        weight = torch.cat(list(task.weights.values()))
        quantized, damping = gptq(
            weight,
            task.statistics.gram,
            task.scheme,
            order=self.order,
            damping=self.damping,
            block=self.block,
        )
        if damping > self.damping:
            task.notice(
                f"{'+'.join(task.group.linears)}: H was not positive definite; "
                f"damping raised from {self.damping:g} to {damping:g} of its mean diagonal"
            )
        sizes = [w.shape[0] for w in task.weights.values()]
        parts = zip(
            quantized.codes.split(sizes),
            quantized.scales.split(sizes),
            quantized.zeros.split(sizes),
            strict=True,
        )
        return {
            name: QuantizedWeight(
                codes=codes,
                scales=scales,
                zeros=zeros,
                scheme=task.scheme,
                group_index=quantized.group_index,
            )
            for name, (codes, scales, zeros) in zip(task.weights, parts, strict=True)
        }

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """Count a factorization, and K columns of which each updates those behind it.

        Cholesky takes a third of K^3 operations, the inverse two thirds.
        """
        count, inputs = sum(rows.values()), group.in_features
        return Work(), Work(
            product_flop=inputs**3 + count * inputs * (inputs - 1),
            rounded=count * inputs,
            steps=inputs,
        )


def inverse_factor(gram: Tensor, damping: float) -> tuple[Tensor, float]:
    """Give upper triangular U, ``(H + damping * mean(diag H) I)^-1 = U^T U``, and the damping used.

    One Cholesky does: with J the reversal of rows and columns and J H J = L L^T, H = (JLJ)(JLJ)^T
    and JLJ is upper triangular, so U is its inverse. A factorization that fails raises the damping
    tenfold, up to 100.

    Args:
        gram: symmetric positive semi-definite H, float32 [K, K].
        damping: share of H's mean diagonal, at least 0.

    Raises:
        ArithmeticError: not even a damping of 100 helps, so H holds something other than squares.
    """
    mean = gram.diagonal().mean()
    tried = damping
    while tried <= 100:
        damped = gram.flip(0, 1).clone()
        damped.diagonal().add_(tried * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if int(info) == 0:
            return _inverse_of_upper(lower.flip(0, 1)), tried
        tried = max(tried * 10, 1e-4)
    raise ArithmeticError(f"H is not positive definite even with a damping of {tried / 10:g}")


def _inverse_of_upper(matrix: Tensor) -> Tensor:
    """Invert an upper triangular matrix by halves: products run faster than solving.

    [[A, B], [0, D]]^-1 = [[A^-1, -A^-1 B D^-1], [0, D^-1]] takes two thirds of K^3 operations.
    """
    size = matrix.shape[0]
    if size <= 256:
        identity = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
        solved: Tensor = torch.linalg.solve_triangular(matrix, identity, upper=True)
        return solved
    half = size // 2
    inverse = torch.zeros_like(matrix)
    inverse[:half, :half] = _inverse_of_upper(matrix[:half, :half])
    inverse[half:, half:] = _inverse_of_upper(matrix[half:, half:])
    inverse[:half, half:] = -(inverse[:half, :half] @ matrix[:half, half:]) @ inverse[half:, half:]
    return inverse


def gptq(
    weight: Tensor,
    gram: Tensor,
    scheme: QuantScheme,
    *,
    order: Order = "static",
    damping: float = 0.01,
    block: int = 128,
) -> tuple[QuantizedWeight, float]:
    """Quantize W with second-order error compensation.

    Args:
        weight: float32 [N, K].
        gram: H, float32 [K, K].
        scheme: the grid.
        order: see `Order`.
        damping: see `inverse_factor`.
        block: columns per lazy update.

    Returns:
        the weight and the damping that was needed.

    Raises:
        InputError: the group size does not divide K.
        ArithmeticError: see `inverse_factor`.
    """
    group = scheme.group_of(weight.shape[1])
    # Inputs that are always zero carry no information: they are decoupled from the others (their
    # rows and columns of H are zero) and their weights do not matter to the output; round to zero.
    dead = gram.diagonal() == 0
    gram = gram + torch.diag(dead.to(gram.dtype) * gram.diagonal().mean().clamp(min=1e-12))
    weight = weight.masked_fill(dead, 0)

    # Position p of the loop rounds column permutation[p], which belongs to group group_at[p].
    permutation = column_order(gram.diagonal(), group, order)
    positions = torch.arange(len(gram), device=weight.device)
    group_at = (positions if order == "on" else permutation) // group

    groups = grouped(weight, scheme)
    scales, zeros = fit(groups.amin(-1), groups.amax(-1), scheme)
    scales, zeros = scales.t().contiguous(), zeros.t().contiguous()  # [K/G, N]: a row per group
    factor, used = inverse_factor(gram[permutation][:, permutation], damping)
    remaining = weight.t()[permutation].contiguous()  # [K, N]: a column of W is one row here
    codes = _round_columns(
        remaining, factor, scales, zeros, scheme, block, group_at, refit=order != "static"
    )
    unpermuted = torch.empty_like(codes)
    unpermuted[permutation] = codes
    group_index = None
    if order == "on" and group < len(gram):
        group_index = torch.empty_like(group_at)
        group_index[permutation] = group_at
    quantized = QuantizedWeight(
        codes=unpermuted.t().contiguous().to(torch.uint8),
        scales=scales.t().contiguous().to(scheme.scale_dtype),
        zeros=zeros.t().contiguous().to(torch.uint8),
        scheme=scheme,
        group_index=group_index,
    )
    return quantized, used


def column_order(activity: Tensor, group: int, order: Order) -> Tensor:
    """Say which column is rounded when: int64 [K], the column at every position.

    Args:
        activity: H's diagonal [K].
        group: columns to a group; divides K.
        order: see `Order`.
    """
    if order == "off":
        return torch.arange(len(activity), device=activity.device)
    if order != "group":
        return torch.argsort(activity, descending=True, stable=True)
    groups = activity.view(-1, group)
    within = torch.argsort(groups, dim=-1, descending=True, stable=True)
    members = within + torch.arange(0, len(activity), group, device=activity.device)[:, None]
    return members[torch.argsort(groups.amax(-1), descending=True, stable=True)].flatten()


def _round_columns(
    remaining: Tensor,
    factor: Tensor,
    scales: Tensor,
    zeros: Tensor,
    scheme: QuantScheme,
    block: int,
    group_at: Tensor,
    *,
    refit: bool,
) -> Tensor:
    """Round all columns in their order, block by block, each making up for those before.

    Args:
        remaining: float32 [K, N], W^T in that order; overwritten.
        factor: U, float32 [K, K].
        scales: float32 [K/G, N]; overwritten, as are the zeros, where grids are fitted anew.
        zeros: of the same shape.
        scheme: the grid.
        block: columns per lazy update.
        group_at: int64 [K], the group of the column at every position.
        refit: groups are consecutive positions, and each is fitted anew when its first column is
            due; otherwise grids stay as they are, and groups may be in any order.

    Returns:
        codes, float32 [K, N].
    """
    columns, rows = remaining.shape
    group = columns // len(scales)
    codes = torch.empty_like(remaining)
    block = _aligned(block, group)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = remaining.new_empty(stop - start, rows)
        segment = min(group, stop - start) if refit else stop - start
        for p in range(start, stop, segment):
            q = p + segment
            grids = group_at[p : p + 1] if refit else group_at[p:q]
            if refit and p % group == 0:  # fitted to what compensation has made of its weights
                members = remaining[p : p + group]
                scales[grids], zeros[grids] = fit(
                    members.amin(0, keepdim=True), members.amax(0, keepdim=True), scheme
                )
            codes[p:q], errors[p - start : q - start] = round_segment(
                remaining[p:q], factor[p:q, p:q], scales[grids], zeros[grids], scheme.top_code
            )
            if q < stop:
                here = errors[p - start : q - start]
                remaining[q:stop].addmm_(factor[p:q, q:stop].t(), here, alpha=-1)
        remaining[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return codes


def _aligned(block: int, group: int) -> int:
    """Give the block size that is used: whole groups, or a whole part of one."""
    if group <= block:
        return block // group * group
    return next(size for size in range(block, 0, -1) if group % size == 0)


def round_segment(
    remaining: Tensor, factor: Tensor, scales: Tensor, zeros: Tensor, top_code: int
) -> tuple[Tensor, Tensor]:
    """Round the columns of a segment one after the other, each making up for those before.

    On a GPU this is one kernel launch (`baselines.gptq_triton`), elsewhere a loop.

    Args:
        remaining: float32 [columns, N], the segment of W^T as compensation left it.
        factor: float32 [columns, columns], the segment's diagonal block of U.
        scales: float32 [columns, N], or [1, N] for one grid.
        zeros: of the same shape.
        top_code: 2^bits - 1.

    Returns:
        codes and scaled errors e_j = (w_j - q_j) / U_jj, each float32 [columns, N].
    """
    if remaining.is_cuda:
        from baselines import gptq_triton

        return gptq_triton.round_segment(remaining, factor, scales, zeros, top_code)
    remaining = remaining.clone()
    steps, errors = torch.empty_like(remaining), torch.empty_like(remaining)
    scales, zeros = scales.expand_as(remaining), zeros.expand_as(remaining)
    # A column is six calls on short vectors, so calls are what it costs.
    columns = zip(
        remaining.unbind(),
        scales.unbind(),
        (-zeros).unbind(),
        (top_code - zeros).unbind(),
        steps.unbind(),
        errors.unbind(),
        factor.diagonal().tolist(),
        strict=True,
    )
    for j, (weight, scale, low, high, step, error, diagonal) in enumerate(columns):
        steps_from_zero(weight, scale, low, high, out=step)
        torch.addcmul(weight, step, scale, value=-1, out=error).div_(diagonal)
        remaining[j + 1 :].addr_(factor[j, j + 1 :], error, alpha=-1)
    return steps.add_(zeros), errors
