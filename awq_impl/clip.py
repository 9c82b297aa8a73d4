"""Ranges are cut off where that loses least: smaller ones have finer steps, tails may cost less.

For every output channel and weight group, ranges shrunk by a common factor are tried, and the one
with the least output error wins. One group of weights g of one row adds e_g H_gg e_g^T to that
error, with H_gg the diagonal block of H; cross terms between groups are left out, as the error of
one group does not know that of another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.gram import InputStats
from quantcore.grid import decode, encode, fit, grouped
from quantcore.scheme import QuantScheme

_SMALLEST = 0.5
"""The least share of a range that is tried."""


def factors(steps: int) -> list[float]:
    """List the factors that ranges are shrunk by: 1, 1 - 1/steps, ... down to a half."""
    return [1 - step / steps for step in range(round(steps * (1 - _SMALLEST)) + 1)]


def search_ranges(
    weight: Tensor,
    stats: InputStats,
    scheme: QuantScheme,
    *,
    steps: int = 20,
) -> tuple[Tensor, Tensor]:
    """Find the range ``[low, high]`` of every group that loses least, each float32 [N, K/G].

    `factors` shrink low and high together. The full range is the first candidate, so no group's own
    loss is ever above plain rounding's.

    Args:
        weight: float32 [N, K], already folded.
        stats: of its folded input.
        scheme: the grid.
        steps: candidates between 1 and 0.

    Raises:
        InputError: the group size does not divide K.
    """
    groups = grouped(weight, scheme)  # [N, K/G, G]
    blocks = stats.diagonal_blocks(groups.shape[-1])  # [K/G, G, G]
    low, high = groups.amin(-1), groups.amax(-1)
    best_factor = torch.ones_like(low)
    best_loss = torch.full_like(low, torch.inf)
    for factor in factors(steps):
        scales, zeros = fit(low * factor, high * factor, scheme)
        codes = encode(groups, scales[..., None], zeros[..., None], scheme.top_code)
        error = decode(codes, scales[..., None], zeros[..., None]).sub_(groups)
        by_group = error.transpose(0, 1)  # [K/G, N, G]
        loss = torch.sum((by_group @ blocks) * by_group, dim=-1).t()  # [N, K/G]
        better = loss < best_loss
        best_loss = torch.where(better, loss, best_loss)
        best_factor = torch.where(better, factor, best_factor)
    return low * best_factor, high * best_factor
