"""AWQ is done here as the article "AWQ Deep Dive" tells it: the scales stay beside the codes.

The paper searches one exponent for a whole group of linears and folds the scales into the operation
before. The article (steps 1 to 3) searches one exponent for each weight group of G input channels
of each linear, on the mean square of its inputs, and keeps the scales, one per input channel:

    importance_j = E[x_j^2]                       s_j = importance_j^ratio / geometric mean of group
    codes = Q(W s)                                w_hat = dequantized(codes) / s

The loss is the output error within the group, e H_gg e^T summed over the output channels, with H_gg
the diagonal block of H. Cross terms between groups are left out, for the error of one group does
not know that of another; so it is this loss, and not the error of the whole output, that can never
be above plain rounding's.

Source: https://fridayswithfaraday.com/posts/quantization-masterclass-activation-aware-awq-detail;
``docs/awq-article.md`` lists where its code is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantcore.errors import InputError
from quantcore.gram import InputStats
from quantcore.grid import QuantizedWeight, grouped, quantize, round_to_nearest
from quantcore.method import CalibrationKind, Extra, GroupTask, Work
from quantcore.scheme import QuantScheme
from quantcore.structure import Fold, LinearGroup

_FLOOR = 1e-8
"""Of the group's mean importance: a channel that is always zero must not get the scale zero."""
_SMALLEST, _LARGEST = 2.0**-14, 2.0**15
"""Scales stay where float16 has its full precision."""


@dataclass(frozen=True, kw_only=True)
class GroupScales:
    """Group scales hold what the search chose for a linear's weight groups, and what it saw."""

    scales: Tensor
    """float32 [K], positive, exactly as the scheme's scale dtype stores them."""
    ratios: Tensor
    """float32 [K/G], the exponent of every group; 0 means s = 1."""
    losses: Tensor
    """float32 [K/G], output error within the group, over all calibration tokens."""
    rtn_losses: Tensor
    """float32 [K/G], the same with s = 1; never below ``losses``."""


def channel_importance(stats: InputStats) -> Tensor:
    """Give E[x_j^2] = H_jj / tokens of every input channel, float32 [K] (the article's step 1).

    With independent channels the output error is E[dy_i^2] = sum_j dW_ij^2 E[x_j^2]: this is the
    weight that the square of a rounding error gets. It is an average over tokens, whatever the
    batches were.
    """
    return stats.gram.diagonal() / stats.tokens


def group_scales(importance: Tensor, ratio: float, group_size: int, dtype: torch.dtype) -> Tensor:
    """Give importance^ratio over its geometric mean in the group, float32 [K]; ones for ratio 0.

    The geometric mean is exp of the mean of logs, taken once. Importances below 1e-8 of the
    group's mean count as that much, and scales stay within 2^-14 .. 2^15.

    Args:
        importance: not negative, [K].
        ratio: 0 to 1; 1/2 is the square root of the importance, in the unit of x itself.
        group_size: G, a divisor of K.
        dtype: the scales are rounded to what this dtype holds.
    """
    groups = importance.reshape(-1, group_size)
    floor = (_FLOOR * groups.mean(-1, keepdim=True)).clamp(min=torch.finfo(torch.float32).tiny)
    logs = torch.maximum(groups, floor).log()
    scales = torch.exp(ratio * (logs - logs.mean(-1, keepdim=True)))
    return scales.clamp(_SMALLEST, _LARGEST).to(dtype).float().reshape(-1)


def within_group_losses(error: Tensor, blocks: Tensor) -> Tensor:
    """Sum e_g H_gg e_g^T over the output channels for every group g, [K/G].

    Args:
        error: of the weights, [N, K].
        blocks: `InputStats.diagonal_blocks`, [K/G, G, G].
    """
    by_group = error.view(error.shape[0], *blocks.shape[:2]).transpose(0, 1)  # [K/G, N, G]
    return torch.sum((by_group @ blocks) * by_group, dim=(1, 2))


def ratios(steps: int) -> list[float]:
    """List the exponents that are tried; 0, s = 1, comes first."""
    return [step / steps for step in range(steps + 1)]


def search_group_scales(
    weight: Tensor, stats: InputStats, scheme: QuantScheme, *, steps: int = 20
) -> GroupScales:
    """Find the best of `ratios` for every weight group (the article's step 2).

    All groups are tried at once, each keeps its own best. Ratio 0 is s = 1, plain rounding, so no
    group's loss is ever above it.

    Args:
        weight: float32 [N, K] of one linear.
        stats: of its input.
        scheme: the grid that weights will be rounded to.
        steps: ratios between 0 and 1.

    Raises:
        InputError: the group size does not divide K.
        ArithmeticError: H holds values that are not finite.
    """
    size = grouped(weight, scheme).shape[-1]
    blocks = stats.diagonal_blocks(size)
    importance = channel_importance(stats)

    def losses_of(scales: Tensor) -> Tensor:
        served = round_to_nearest(weight * scales, scheme).div_(scales)
        return within_group_losses(served.sub_(weight), blocks)

    best_scales = torch.ones_like(importance)
    rtn_losses = best_losses = losses_of(best_scales)
    if not bool(torch.isfinite(rtn_losses).all()):
        raise ArithmeticError(f"the output error of plain rounding is {float(rtn_losses.sum())}")
    best_ratios = torch.zeros_like(rtn_losses)
    for ratio in ratios(steps)[1:]:
        scales = group_scales(importance, ratio, size, scheme.scale_dtype)
        losses = losses_of(scales)
        better = losses < best_losses
        best_losses = torch.where(better, losses, best_losses)
        best_ratios = torch.where(better, ratio, best_ratios)
        best_scales = torch.where(better.repeat_interleave(size), scales, best_scales)
    return GroupScales(
        scales=best_scales, ratios=best_ratios, losses=best_losses, rtn_losses=rtn_losses
    )


def awq_quantize(weight: Tensor, scales: Tensor, scheme: QuantScheme) -> QuantizedWeight:
    """Multiply the columns by the scales, round, and keep the scales (the article's step 3).

    The scales are rounded to their storage dtype first, so that what is divided out later is
    exactly what was multiplied in here.

    Args:
        weight: float32 [N, K].
        scales: positive, [K].
        scheme: the grid.

    Raises:
        InputError: the group size does not divide K; a scale that is not positive and finite, or
            not once it is stored.
    """
    stored = scales.to(scheme.scale_dtype)
    usable = torch.isfinite(stored) & (stored > 0)
    if not bool(usable.all()):
        channel = int((~usable).int().argmax())
        raise InputError(
            f"the scale {float(scales[channel]):g} of input channel {channel} is "
            f"{float(stored[channel]):g} in {str(scheme.scale_dtype).removeprefix('torch.')}: "
            "stored scales must be positive and finite; normalise them"
        )
    return replace(quantize(weight * stored.float(), scheme), input_scales=stored)


def awq_dequantize(quantized: QuantizedWeight) -> Tensor:
    """Decode what is served, float32 [N, K]: ``(codes - zeros) * scales / input_scales``."""
    return quantized.dequantize()


@dataclass(frozen=True, kw_only=True)
class ArticleAWQ:
    """``awq-article`` folds nothing; every linear carries 16 more bits per input channel.

    It therefore also scales inputs that no operation before can absorb. Serving it costs one
    division per input channel, which the folded `awq_impl.method.AWQ` does not need.
    """

    steps: int = 20

    @property
    def name(self) -> str:
        """Give the name that the user types."""
        return "awq-article"

    @property
    def calibration(self) -> CalibrationKind:
        """Ask for the statistics of the original model."""
        return "shared"

    @property
    def extras(self) -> frozenset[Extra]:
        """Name what weights keep beside codes, scales and zero points."""
        return frozenset({"input_scales"})

    def settings(self) -> dict[str, object]:
        """Give the number of the search's steps, which decides the result."""
        return {"steps": self.steps}

    def fold(self, fold: Fold, tasks: Sequence[GroupTask]) -> Tensor | None:
        """Fold nothing: scales stay beside the weights."""
        return None

    def round(self, task: GroupTask) -> Mapping[str, QuantizedWeight]:
        """Search and round each linear on its own, as the article does."""
        rounded: dict[str, QuantizedWeight] = {}
        for name, weight in task.weights.items():
            choice = search_group_scales(weight, task.statistics, task.scheme, steps=self.steps)
            rounded[name] = awq_quantize(weight, choice.scales, task.scheme)
        return rounded

    def work(
        self, group: LinearGroup, rows: Mapping[str, int], scheme: QuantScheme
    ) -> tuple[Work, Work]:
        """Count every ratio's scoring within the groups, then the rounding."""
        weights = sum(rows.values()) * group.in_features
        tried = len(ratios(self.steps))
        return Work(), Work(
            product_flop=tried * 2 * weights * scheme.group_of(group.in_features),
            rounded=(tried + 1) * weights,
        )
