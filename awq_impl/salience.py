"""Those channels matter that meet large activations (section 3.1 of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from quantcore.grid import grouped
from quantcore.scheme import QuantScheme

_FLOOR = 1e-4  # of the mean: a channel that is always zero must not ask for an infinite scale


def activation_salience(mean_abs: Tensor) -> Tensor:
    """Divide mean |x| of every input channel by its own mean, float32 [K]; it is at least 1e-4."""
    return (mean_abs / mean_abs.mean().clamp(min=1e-30)).clamp(min=_FLOOR)


def weight_salience(weight: Tensor, scheme: QuantScheme) -> Tensor:
    """Tell how large each channel's weights are beside the others of their groups, float32 [K].

    |w| over its group's largest, averaged over the output channels: near 1 where a channel sets
    the range of its groups, so that scaling it up would coarsen the grid of all its neighbours.
    """
    magnitude = grouped(weight.abs(), scheme)
    share = magnitude / magnitude.amax(-1, keepdim=True).clamp(min=1e-30)
    mean = share.mean(0).reshape(-1)
    return (mean / mean.mean().clamp(min=1e-30)).clamp(min=_FLOOR)


def tied(values: Tensor, rows: Tensor) -> Tensor:
    """Give channels that the same row writes the same value, their mean [K].

    With grouped-query attention one row of v_proj writes a channel for each query head of its
    group, and can take only one scale for all of them.
    """
    count = int(rows.max()) + 1
    rows = rows.to(values.device)
    sums = torch.zeros(count, dtype=values.dtype, device=values.device).index_add_(0, rows, values)
    members = torch.zeros_like(sums).index_add_(0, rows, torch.ones_like(values))
    return (sums / members.clamp(min=1))[rows]
