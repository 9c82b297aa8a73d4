"""What calibration knows about one input, and the loss that every method speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class InputStats:
    """Sums over every calibration token x of one input tensor with K channels."""

    gram: Tensor
    """H = X^T X, float32 [K, K]; not divided by the token count."""
    mean_abs: Tensor
    """mean |x| per channel, float32 [K]: AWQ's salience."""
    tokens: int
    """Rows of X."""

    def folded(self, scales: Tensor) -> InputStats:
        """The statistics of ``x / scales``: S^-1 H S^-1 and mean |x| / s."""
        return InputStats(
            gram=self.gram / scales[:, None] / scales[None, :],
            mean_abs=self.mean_abs / scales,
            tokens=self.tokens,
        )

    def diagonal_blocks(self, group_size: int) -> Tensor:
        """The G x G blocks on H's diagonal, [K/G, G, G]."""
        groups = self.gram.shape[0] // group_size
        index = torch.arange(groups, device=self.gram.device)
        return self.gram.view(groups, group_size, groups, group_size)[index, :, index, :]


def output_error(error: Tensor, gram: Tensor) -> Tensor:
    """``||X E^T||_F^2 = tr(E H E^T)`` for weight errors E [N, K] and H [K, K]; a scalar."""
    return torch.sum((error @ gram) * error)


def per_row_output_error(error: Tensor, gram: Tensor) -> Tensor:
    """The share of every output channel in `output_error`, [N]."""
    return torch.sum((error @ gram) * error, dim=1)
