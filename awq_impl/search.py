"""A grid search on the exact output error tells how far to scale (section 3.2 of the paper).

Scaling input channel j of W by s_j and dividing x_j by it leaves the function as it is, but moves
the rounding: the served weight is Q(W s) / s. The loss is the output error over all calibration
tokens, read from H = X^T X without running anything again:

    L(s) = tr(E H E^T),      E = W - Q(W s) / s
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from awq_impl.salience import activation_salience, tied, weight_salience
from quantcore.gram import InputStats, output_error, tensor_cores
from quantcore.grid import round_to_nearest
from quantcore.scheme import QuantScheme


@dataclass(frozen=True, kw_only=True)
class ScaleChoice:
    """A choice holds the scales that lost least, and what the search saw."""

    scales: Tensor
    """float32 [K], positive; ones if nothing was better than leaving the weights alone."""
    loss: float
    """tr(E H E^T) with these scales."""
    rtn_loss: float
    """The same with no scaling."""
    exponent: float
    """a in s = mean|x|^a [/ mean|w|^(1-a)]."""
    by_weight: bool
    """Whether the scales were divided by mean |w|^(1-a)."""


def candidates(steps: int) -> list[tuple[float, bool]]:
    """List exponents, and whether the weights' salience divides; s = 1 (exponent 0) comes first."""
    tried = [(step / steps, by_weight) for step in range(steps + 1) for by_weight in (False, True)]
    return tried[:-1]  # with the exponent 1 both forms are the same


def candidate(
    activation: Tensor, weight: Tensor | None, exponent: float, *, rows: Tensor | None
) -> Tensor:
    """Give s = a_x^exponent [/ a_w^(1 - exponent)], with max(s) * min(s) normalised to 1; [K]."""
    scales = activation.pow(exponent)
    if weight is not None:
        scales = scales / weight.pow(1 - exponent)
    if rows is not None:
        scales = tied(scales, rows)
    return scales / (scales.max() * scales.min()).sqrt()


def search_scales(
    weight: Tensor,
    stats: InputStats,
    scheme: QuantScheme,
    *,
    steps: int = 20,
    rows: Tensor | None = None,
) -> ScaleChoice:
    """Find the scales of linears that share an input: `search_shared_scales` of one part.

    Args:
        weight: float32 [N, K], the linears one below the other.
        stats: of the shared input.
        scheme: the grid that weights will be rounded to.
        steps: exponents between 0 and 1.
        rows: int64 [K], channels with the same number must get the same scale; None: all free.
    """
    return search_shared_scales([(weight, stats)], scheme, steps=steps, rows=rows)


def search_shared_scales(
    parts: Sequence[tuple[Tensor, InputStats]],
    scheme: QuantScheme,
    *,
    steps: int = 20,
    rows: Tensor | None = None,
) -> ScaleChoice:
    """Find the scales of everything that reads one absorber, each part with its own statistics.

    Most absorbers have one part; the norm before a mixture of experts has one for each expert, and
    the loss is the sum of theirs. The exponent is searched over ``0, 1/steps, ..., 1``, with and
    without division by the weights' own salience; s = 1 is always scored on all rows, so the loss
    is never above that of plain rounding. Where there are `RACED_FROM` rows or more, candidates
    race: those far behind on an eighth of the rows are not scored on the rest.

    Args:
        parts: weights float32 [N, K] and the statistics of the tokens that meet them.
        scheme: the grid that weights will be rounded to.
        steps: exponents between 0 and 1.
        rows: int64 [K], channels with the same number must get the same scale; None: all free.

    Raises:
        InputError: the group size does not divide K.
        ArithmeticError: H holds values that are not finite.
    """
    tokens = sum(stats.tokens for _, stats in parts)
    mean_abs = torch.stack([stats.mean_abs * (stats.tokens / tokens) for _, stats in parts]).sum(0)
    whole = min(len(weight) for weight, _ in parts) < RACED_FROM
    activation = activation_salience(mean_abs)
    salience = weight_salience(torch.cat([weight for weight, _ in parts]), scheme)
    racing = [
        _Runner(
            scales=candidate(activation, salience if by_weight else None, exponent, rows=rows),
            exponent=exponent,
            by_weight=by_weight,
        )
        for exponent, by_weight in candidates(steps)
    ]
    unscaled = racing[0]
    for eighths, kept in ((None, 1),) if whole else _STAGES:
        for runner in racing:
            runner.loss += _loss(parts, scheme, runner.scales, eighths)
        if not unscaled.loss < float("inf"):
            raise ArithmeticError(f"the output error of plain rounding is {unscaled.loss}")
        racing = sorted(racing, key=lambda runner: runner.loss)[:kept]
        if unscaled not in racing:
            racing.append(unscaled)
    best = min(racing, key=lambda runner: runner.loss)
    return ScaleChoice(
        scales=best.scales,
        loss=best.loss,
        rtn_loss=unscaled.loss,
        exponent=best.exponent,
        by_weight=best.by_weight,
    )


def _loss(
    parts: Sequence[tuple[Tensor, InputStats]],
    scheme: QuantScheme,
    scales: Tensor,
    eighths: Sequence[int] | None,
) -> float:
    """Sum up the loss of every eighth row from each of these on; None: of all rows."""
    total = 0.0
    for weight, stats in parts:
        for first in (None,) if eighths is None else eighths:
            some = weight if first is None else weight[first::8]
            error = round_to_nearest(some * scales, scheme).div_(scales).sub_(some)
            with tensor_cores(weight.is_cuda):
                total += float(output_error(error, stats.gram))
    return total


RACED_FROM = 1024
"""Rows from which candidates race; fewer rows are all scored for every candidate."""
_STAGES = ((range(1), 12), (range(1, 2), 6), (range(2, 4), 3), (range(4, 8), 1))
"""Successive halving: which eighths of the rows come next, and how many candidates are kept then.
Rows have weights of their own and share their inputs, so an eighth of them ranks candidates to a
fraction of a percent of the loss; in all it is the work of 11 candidates scored on all rows."""


def evaluations(count: int, rows: int) -> float:
    """Count how often the search scores all rows for so many candidates, s = 1 among them."""
    if rows < RACED_FROM:
        return float(count)
    left, total = count, 0.0
    for eighths, kept in _STAGES:
        total += left * len(eighths) / 8
        left = min(left, kept + 1)  # s = 1 stays; at the most, for it may be among the best
    return total


@dataclass(kw_only=True, eq=False)
class _Runner:
    """A runner is a candidate in the race, with its loss on the rows so far."""

    scales: Tensor
    exponent: float
    by_weight: bool
    loss: float = 0.0
