"""How far to scale: a grid search on the exact output error (section 3.2 of the paper).

Scaling input channel j of W by s_j and dividing x_j by it leaves the function as it is, but moves
the rounding: the served weight is Q(W s) / s. The loss is the output error over all calibration
tokens, read from H = X^T X without running anything again:

    L(s) = tr(E H E^T),      E = W - Q(W s) / s
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from awq_impl.salience import activation_salience, tied, weight_salience
from quantcore.grid import round_to_nearest
from quantcore.scheme import QuantScheme
from quantcore.statistics import InputStats, output_error, tensor_cores


@dataclass(frozen=True, kw_only=True)
class ScaleChoice:
    """The scales that lost least, and what the search saw."""

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


def candidate(
    activation: Tensor, weight: Tensor | None, exponent: float, *, rows: Tensor | None
) -> Tensor:
    """S = a_x^exponent [/ a_w^(1 - exponent)], normalised so that max(s) * min(s) = 1; [K]."""
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
    without division by the weights' own salience; s = 1 is always a candidate, so the loss is never
    above that of plain rounding.

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

    def loss_of(scales: Tensor) -> float:
        total = 0.0
        for weight, stats in parts:
            error = round_to_nearest(weight * scales, scheme).div_(scales).sub_(weight)
            with tensor_cores(weight.is_cuda):
                total += float(output_error(error, stats.gram))
        return total

    def candidates() -> Iterator[tuple[float, bool, Tensor]]:
        activation = activation_salience(mean_abs)
        by_weight = weight_salience(torch.cat([weight for weight, _ in parts]), scheme)
        for step in range(steps + 1):
            exponent = step / steps
            if step > 0:  # exponent 0 by activation alone is s = 1
                yield exponent, False, candidate(activation, None, exponent, rows=rows)
            if step < steps:  # at exponent 1 both forms are the same
                yield exponent, True, candidate(activation, by_weight, exponent, rows=rows)

    rtn_loss = loss_of(torch.ones_like(mean_abs))
    if not rtn_loss < float("inf"):
        raise ArithmeticError(f"the output error of plain rounding is {rtn_loss}")
    best = ScaleChoice(
        scales=torch.ones_like(mean_abs),
        loss=rtn_loss,
        rtn_loss=rtn_loss,
        exponent=0.0,
        by_weight=False,
    )
    for exponent, by_weight, scales in candidates():
        loss = loss_of(scales)
        if loss < best.loss:
            best = ScaleChoice(
                scales=scales, loss=loss, rtn_loss=rtn_loss, exponent=exponent, by_weight=by_weight
            )
    return best
